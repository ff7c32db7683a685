import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { checkInteger } from '../validation.ts'

export interface PurgeOpsOptions {
  /** How long a lock must have been free, in milliseconds; a day unless said, and at least a minute. */
  lockAgeMs?: number
  /** Rows of one transaction; up to 10,000. */
  batch?: number
}

export interface PurgedOps {
  idempotencyKeys: number
  /** Those of organizations and of the platform. */
  locks: number
  /** Those of organizations, of users and of the public. */
  rateLimits: number
}

/**
 * Deletes what says nothing any more: expired keys with their answers, locks that were free for long, buckets that are
 * full. In batches, each a transaction of its own, past rows that others are at. For a job, every hour or so. Returns how
 * many of each; killed, or run twice at once, it has deleted the less.
 *
 * A lock that is acquired anew gets a greater token than it ever had, unless the database's clock was set back by more
 * than `lockAgeMs`.
 *
 * @throws {ValidationError}
 */
export async function purgeOps(
  db: Database,
  { lockAgeMs = 86_400_000, batch = 1_000 }: PurgeOpsOptions = {},
): Promise<PurgedOps> {
  checkInteger('lockAgeMs', lockAgeMs, { min: 60_000 })
  checkInteger('batch', batch, { min: 1, max: 10_000 })

  const purgeAll = async (kind: string) => {
    let total = 0
    for (;;) {
      const query = sql`select ops.purge(${kind}, ${batch}::integer, ${lockAgeMs}::bigint) as deleted`
      const { deleted } = only(await rowsOf<{ deleted: number }>(db, query))
      total += deleted
      if (deleted < batch) return total
    }
  }
  return {
    idempotencyKeys: await purgeAll('idempotency_keys'),
    locks: (await purgeAll('locks')) + (await purgeAll('tenant_locks')),
    rateLimits: (await purgeAll('rate_limits')) + (await purgeAll('public_rate_limits')),
  }
}
