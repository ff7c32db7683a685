import { and, desc, eq, lt, sql } from 'drizzle-orm'
import { only, run } from '../database.ts'
import { type ContextItem, type ContextLog, contextLogs } from '../schema/ai.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInteger,
  checkJson,
  checkLimit,
  checkList,
  checkText,
  checkUuid,
} from '../validation.ts'

const MAX_TOKENS = 10_000_000

export interface ContextLogEntry {
  items: readonly ContextItem[]
  budgetTokens: number
  /** Up to `budgetTokens`. */
  totalTokens: number
  query?: string
  model?: string
}

/** Records what a model is given for an answer. Returns the log's id. @throws {ValidationError} */
export async function recordContext(
  { db, organizationId, userId }: Tenant,
  { items, budgetTokens, totalTokens, query, model }: ContextLogEntry,
): Promise<string> {
  checkList('items', items, { max: 10_000 })
  const parts = items.map((item, at) => checkJson(`items[${at}]`, item))
  checkJson('items', { items })
  checkInteger('budgetTokens', budgetTokens, { max: MAX_TOKENS })
  checkInteger('totalTokens', totalTokens, { max: budgetTokens })
  if (query !== undefined) checkText('query', query, { max: 10_000 })
  if (model !== undefined) checkText('model', model, { max: 200 })
  // As text: a driver would make an array of Postgres of the first item's type.
  const json = sql`${`[${parts.join()}]`}::text::jsonb`
  const entry = { items: json, budgetTokens, totalTokens, query, model }
  const { id } = only(
    await run(
      db
        .insert(contextLogs)
        .values({ organizationId, userId, ...entry })
        .returning({ id: contextLogs.id }),
    ),
  )
  return id
}

export interface ListContextLogsOptions {
  /** The id of the last log of the previous page. */
  after?: string
  /** Up to 200. */
  limit?: number
}

/** Lists what models were given, newest first: the member's own, for admins all. @throws {ValidationError} */
export async function listContextLogs(
  { db, organizationId }: Tenant,
  { after, limit = 20 }: ListContextLogsOptions = {},
): Promise<ContextLog[]> {
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, 200)
  return run(
    db
      .select()
      .from(contextLogs)
      .where(
        and(
          eq(contextLogs.organizationId, organizationId),
          after === undefined ? undefined : lt(contextLogs.id, after),
        ),
      )
      .orderBy(desc(contextLogs.id))
      .limit(limit),
  )
}
