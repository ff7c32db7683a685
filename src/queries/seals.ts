import { and, eq, sql } from 'drizzle-orm'
import { type Database, rowsOf, run } from '../database.ts'
import { ForbiddenError } from '../errors.ts'
import { activityChains, activitySeals } from '../schema/activity.ts'
import { type Tenancy, type Tenant, withTenant } from '../tenant.ts'
import { checkInstant, checkInteger } from '../validation.ts'

const PAGE = 100

/** Lines of a seal. */
const SEAL_ROWS = 1_000

/** A seal, by which all before it are known: to be kept where whoever may write to the database may not. */
export interface ActivityHead {
  sequence: number
  /** SHA-256, in hexadecimal. */
  hash: string
}

/**
 * Lets the activity log of the organization be sealed: the lines that are there, and those to come. A log that was
 * sealed before goes on with its chain. Idempotent.
 *
 * @throws {ForbiddenError} unless the scope is an admin's or a service's.
 */
export async function enableActivitySeals({ db, organizationId }: Tenant): Promise<void> {
  await run(
    db
      .insert(activityChains)
      .values({ organizationId })
      .onConflictDoUpdate({ target: activityChains.organizationId, set: { disabledAt: null } }),
  )
}

/**
 * Ends the sealing of the log; what was sealed can still be verified. Idempotent.
 *
 * @throws {ForbiddenError} unless the scope is an admin's or a service's.
 */
export async function disableActivitySeals(tenant: Tenant): Promise<void> {
  await checkAdmin(tenant)
  await run(
    tenant.db
      .update(activityChains)
      .set({ disabledAt: sql`now()` })
      .where(
        and(
          eq(activityChains.organizationId, tenant.organizationId),
          sql`${activityChains.disabledAt} is null`,
        ),
      ),
  )
}

/** Refuses whoever may not read the seals, to whom a log would seem to have none. @throws {ForbiddenError} */
export async function checkAdmin({ role }: Tenant): Promise<void> {
  if (!['owner', 'admin', 'service'].includes(await role)) {
    throw new ForbiddenError('permission', 'the seals of the log are for admins and services')
  }
}

export interface SealedActivity {
  organizations: number
  /** Seals that were made, and the lines in them. */
  seals: number
  rows: number
  /** The newest seal of the one organization; undefined without any, and on a database: see `onProgress`. */
  head: ActivityHead | undefined
}

export interface SealActivityOptions {
  /**
   * The earliest time of a line to look at. Unless said, the whole log, of which only such a call can say that it
   * is sealed completely: `verifyActivity` finds inserted lines by these.
   */
  since?: Date
  /** Lines of a seal and of a transaction, up to 10,000; 1,000 unless said. */
  maxRows?: number
  /** After each seal. */
  onProgress?: (seal: { organizationId: string; head: ActivityHead; rows: number }) => void
  /** Ends it between two seals. */
  signal?: AbortSignal
}

/**
 * Seals the lines of the activity log that are not sealed yet, in the order of their times: of one organization, or on a
 * database of all that have it enabled. A line that comes later, with whatever time, is in a later seal.
 *
 * Writers of the log do not wait for it, nor it for them. Two at once take turns, and the chain never forks. A seal
 * is a transaction unless one is open; interrupted, and called again, it goes on.
 *
 * @throws {NotFoundError} `activity chain` for an organization without: see `enableActivitySeals`.
 * @throws {ForbiddenError} unless the scope is an admin's or a service's; on a database, without the role
 * `plinth_platform`. @throws {ValidationError} @throws the signal's reason.
 */
export async function sealActivity(
  on: Database | Tenancy,
  { since, maxRows = SEAL_ROWS, onProgress, signal }: SealActivityOptions = {},
): Promise<SealedActivity> {
  if (since !== undefined) checkInstant('since', since)
  checkInteger('maxRows', maxRows, { min: 1, max: 10_000 })
  const sum: SealedActivity = { organizations: 0, seals: 0, rows: 0, head: undefined }
  const sealAll = async (tenancy: Tenancy) => {
    let last: SealedBatch | undefined
    do {
      signal?.throwIfAborted()
      const after = last
      last = await withTenant(tenancy, (tenant) => sealBatch(tenant, { since, after, maxRows }))
      if (!last) break
      sum.seals += 1
      sum.rows += last.rows
      const { head, rows } = last
      onProgress?.({ organizationId: tenancy.organizationId, head, rows })
    } while (last.hasMore)
    sum.organizations += 1
  }
  if ('organizationId' in on) {
    await sealAll(on)
    return { ...sum, head: await withTenant(on, findHead) }
  }
  for (let after: string | null = null; ; ) {
    const found: { id: string }[] = await rowsOf(
      on,
      sql`select organization_id as id from activity.sealed_logs(${after}, ${PAGE})`,
    )
    for (const { id: organizationId } of found) await sealAll({ db: on, organizationId })
    if (found.length < PAGE) return sum
    after = found.at(-1)?.id ?? null
  }
}

interface SealedBatch {
  head: ActivityHead
  rows: number
  /** When the first seal of the sweep was made, and where this one ends; in milliseconds since 1970. */
  startedAt: number
  lastAt: number
  lastId: string
  hasMore: boolean
}

const instant = (at: number | undefined) => (at === undefined ? null : new Date(at).toISOString())

async function sealBatch(
  { db }: Tenant,
  {
    since,
    after,
    maxRows,
  }: { since: Date | undefined; after: SealedBatch | undefined; maxRows: number },
): Promise<SealedBatch | undefined> {
  const [sealed] = await rowsOf<Omit<SealedBatch, 'head'> & { sequence: string; hash: string }>(
    db,
    sql`
      select sequence::text, encode(hash, 'hex') as hash, row_count as rows, last_id as "lastId",
        has_more as "hasMore",
        (extract(epoch from started_at) * 1000)::float8 as "startedAt",
        (extract(epoch from last_at) * 1000)::float8 as "lastAt"
      from activity.seal_rows(${since?.toISOString() ?? null}, ${instant(after?.startedAt)},
        ${instant(after?.lastAt)}, ${after?.lastId ?? null}, ${maxRows})`,
  )
  if (!sealed) return
  const { sequence, hash, ...rest } = sealed
  return { ...rest, head: { sequence: Number(sequence), hash } }
}

/** The newest seal. */
export async function findHead({ db, organizationId }: Tenant): Promise<ActivityHead | undefined> {
  const [head] = await rowsOf<{ sequence: string; hash: string }>(
    db,
    sql`
      select s.sequence::text, encode(s.hash, 'hex') as hash from ${activitySeals} s
      where s.organization_id = ${organizationId} order by s.sequence desc limit 1`,
  )
  return head && { sequence: Number(head.sequence), hash: head.hash }
}
