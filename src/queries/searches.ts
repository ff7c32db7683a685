import { and, eq, sql } from 'drizzle-orm'
import { isBefore, run } from '../database.ts'
import { type SearchRecord, searches } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { checkAfter, checkInstant, checkLimit } from '../validation.ts'

export type NewSearch = Omit<typeof searches.$inferInsert, 'organizationId' | 'userId'>

/** Appends to the log of searches; `search` does, when asked. @throws {MissingPartitionError} */
export async function recordSearch(
  { db, organizationId, userId }: Tenant,
  entry: NewSearch,
): Promise<void> {
  await run(db.insert(searches).values({ ...entry, organizationId, userId }))
}

export interface ListSearchesOptions {
  since?: Date
  /** The last search of the previous page. */
  after?: Pick<SearchRecord, 'occurredAt' | 'id'>
  /** Up to 500. */
  limit?: number
}

/** Lists the recorded searches, newest first: the member's own, for admins all. @throws {ValidationError} */
export async function listSearches(
  { db, organizationId }: Tenant,
  { since, after, limit = 50 }: ListSearchesOptions = {},
): Promise<SearchRecord[]> {
  if (since !== undefined) checkInstant('since', since)
  if (after !== undefined) checkAfter(after)
  checkLimit(limit, 500)
  return run(
    db
      .select()
      .from(searches)
      .where(
        and(
          eq(searches.organizationId, organizationId),
          since ? sql`${searches.occurredAt} >= ${since.toISOString()}` : undefined,
          after ? isBefore(searches.occurredAt, searches.id, after) : undefined,
        ),
      )
      .orderBy(sql`${searches.occurredAt} desc, ${searches.id} desc`)
      .limit(limit),
  )
}
