import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { LockError } from '../errors.ts'
import { type Tenancy, type Tenant, withTenant } from '../tenant.ts'

const PAGE = 100

/** How often a ledger is tried to be closed whose writers do not end, and what is waited between. */
const ATTEMPTS = 40
const PAUSE_MS = 500

export interface RolledUpUsage {
  organizations: number
  /** Days that were summed up, today and those that were so again among them. */
  days: number
  /** Lines of the ledger in them, without adjustments. */
  events: number
  /** Organizations whose writers never ended for half a minute, and which were passed over. */
  busy: string[]
}

export interface RollUpUsageOptions {
  /** After each day, with what was done until then. */
  onProgress?: (progress: RolledUpUsage) => void
  /** Ends it between two days. */
  signal?: AbortSignal
}

/**
 * Sums up the ledger by the day of UTC, as `spend` reads it, up to the hour that goes on, which begins five minutes
 * late: every day before today and what is over of today, and anew the days that were written into since. Of one
 * organization, or on a database of all that have something to sum up.
 *
 * To be run every hour or every day, some minutes after it has begun. Each run sums up all of today that is over once
 * more, unless there is nothing new in it. A day is a transaction, which holds up no writer; interrupted anywhere,
 * and called again, it goes on with what is missing. Two at once take turns.
 *
 * @throws {ForbiddenError} unless the scope is an admin's or a service's; on a database, without the role
 * `plinth_platform`. @throws {LockError} for one organization whose writers never ended; run it again.
 * @throws the signal's reason.
 */
export async function rollUpUsage(
  on: Database | Tenancy,
  { onProgress, signal }: RollUpUsageOptions = {},
): Promise<RolledUpUsage> {
  const sum: RolledUpUsage = { organizations: 0, days: 0, events: 0, busy: [] }
  const rollUp = async (tenancy: Tenancy) => {
    signal?.throwIfAborted()
    await closeUsage(tenancy, signal)
    for (;;) {
      signal?.throwIfAborted()
      const [day] = await withTenant(tenancy, ({ db }) =>
        rowsOf<{ events: string }>(db, sql`select events::text from costs.roll_up_usage_day()`),
      )
      if (!day) break
      sum.days += 1
      sum.events += Number(day.events)
      onProgress?.({ ...sum })
    }
    sum.organizations += 1
  }
  if ('organizationId' in on) {
    await rollUp(on)
    return sum
  }
  for (let after: string | null = null; ; ) {
    const due: { id: string }[] = await rowsOf(
      on,
      sql`select organization_id as id from costs.due_ledgers(${after}, ${PAGE})`,
    )
    for (const { id: organizationId } of due) {
      await rollUp({ db: on, organizationId }).catch((error) => {
        if (!(error instanceof LockError)) throw error
        sum.busy.push(organizationId)
      })
    }
    if (due.length < PAGE) return sum
    after = due.at(-1)?.id ?? null
  }
}

async function closeUsage(tenancy: Tenancy, signal: AbortSignal | undefined): Promise<void> {
  const close = ({ db }: Tenant) => rowsOf(db, sql`select costs.close_usage()`)
  for (let attempt = 1; ; attempt += 1) {
    try {
      return void only(await withTenant(tenancy, close))
    } catch (error) {
      // An open transaction has failed with it.
      const isOpen = 'role' in tenancy
      if (!(error instanceof LockError) || isOpen || attempt === ATTEMPTS) throw error
      await pause(PAUSE_MS, undefined, { signal })
    }
  }
}
