import { sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../database.ts'
import { ForbiddenError } from '../errors.ts'
import { claimBudgetAlerts, type ListedBudgetAlert } from '../queries/budget-alerts.ts'
import { raiseMissedAlerts } from '../queries/charging.ts'
import { expireReservations, purgeReservations } from '../queries/reservations.ts'
import { asService, type Tenant } from '../tenant.ts'
import { checkInteger } from '../validation.ts'

const DAY_MS = 86_400_000
const PAGE = 100
const BATCH = 1_000

export interface SweptReservations {
  /** Whose lease was over, and that were given back. */
  expired: number
  /** That were old, and deleted. */
  purged: number
}

export interface SweepReservationsOptions {
  /** How long a reservation is kept after it was made, held ones excepted; 30 days unless said, a day at least. */
  retentionMs?: number
  /** Called after each organization. */
  onProgress?: (swept: SweptReservations) => void
  /** Ends it between two organizations. */
  signal?: AbortSignal
}

/**
 * Gives back what is held by reservations whose lease is over, and deletes old ones, in all organizations. For
 * a job that runs every minute or so; any number may run at once, and a killed one has done what it has done.
 *
 * @throws {ValidationError}
 */
export async function sweepReservations(
  db: Database,
  { retentionMs = 30 * DAY_MS, onProgress, signal }: SweepReservationsOptions = {},
): Promise<SweptReservations> {
  checkInteger('retentionMs', retentionMs, { min: DAY_MS })
  const swept = { expired: 0, purged: 0 }
  await forEachDue(db, 'expire', signal, async (tenant) => {
    swept.expired += await expireReservations(tenant, { limit: BATCH })
    onProgress?.({ ...swept })
  })
  await forEachDue(db, 'purge', signal, async (tenant) => {
    swept.purged += await purgeReservations(tenant, { olderThanMs: retentionMs, limit: BATCH })
    onProgress?.({ ...swept })
  })
  return swept
}

export interface DrainBudgetAlertsOptions {
  /** Ends it between two organizations. */
  signal?: AbortSignal
}

/**
 * Gives every alert that nobody has taken to `deliver`, oldest first, up to 100 of one organization at a time,
 * and returns how many. What `deliver` throws for leaves its alerts to the next one who drains, and does not
 * keep the other organizations from theirs: all is tried, and the first error thrown at the end.
 *
 * An alert is given once, unless the process dies between `deliver` and the COMMIT. A transaction is open meanwhile.
 *
 * @throws what `deliver` throws.
 */
export async function drainBudgetAlerts(
  db: Database,
  deliver: (alerts: readonly ListedBudgetAlert[], tenant: Tenant) => Promise<void>,
  { signal }: DrainBudgetAlertsOptions = {},
): Promise<number> {
  let drained = 0
  const failures: unknown[] = []
  const drain = async (tenant: Tenant) => {
    const alerts = await claimBudgetAlerts(tenant, { limit: PAGE })
    if (alerts.length > 0) await deliver(alerts, tenant)
    return alerts.length
  }
  const passOver = (error: unknown) => {
    if (!isGone(error)) failures.push(error)
    return 0
  }
  const organizations = await dueOrganizations(db, 'alert')
  for (const organizationId of organizations) {
    // In a transaction of its own: nobody who would raise the same has to wait for `deliver`.
    await asService(db, organizationId, raiseMissedAlerts).catch(passOver)
    for (let claimed = PAGE; claimed === PAGE && !signal?.aborted; drained += claimed) {
      claimed = await asService(db, organizationId, drain).catch(passOver)
    }
  }
  if (failures.length > 0) throw failures[0]
  return drained
}

type Work = 'expire' | 'alert' | 'purge'

async function dueOrganizations(db: Database, work: Work): Promise<string[]> {
  const found: string[] = []
  for (let after: string | undefined, page = PAGE; page === PAGE; after = found.at(-1)) {
    const rows = await rowsOf<{ id: string }>(
      db,
      sql`select id from costs.organizations_due(${work}, ${after ?? null}, ${PAGE}) as due (id)`,
    )
    found.push(...rows.map(({ id }) => id))
    page = rows.length
  }
  return found
}

async function forEachDue(
  db: Database,
  work: Work,
  signal: AbortSignal | undefined,
  run: (tenant: Tenant) => Promise<void>,
): Promise<void> {
  for (const organizationId of await dueOrganizations(db, work)) {
    if (signal?.aborted) return
    await asService(db, organizationId, run).catch((error) => {
      if (!isGone(error)) throw error
    })
  }
}

/** Nobody enters an archived organization, and one may be deleted meanwhile. */
const isGone = (error: unknown) =>
  error instanceof ForbiddenError &&
  (error.reason === 'organization_archived' || error.reason === 'organization_not_found')
