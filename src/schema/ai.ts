import { sql } from 'drizzle-orm'
import {
  check,
  foreignKey,
  integer,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  uuid,
} from 'drizzle-orm/pg-core'
import { id, instant, organizationId } from './columns.ts'
import { organizations } from './identity.ts'
import { managedComment, managedGrant } from './managed.ts'
import { log, tenantPolicies } from './policies.ts'

export const ai = pgSchema('ai')

/** A passage of a context, and where it is from. */
export interface ContextItem {
  /** The chunks that it was put together of, in reading order. */
  chunkIds: string[]
  sourceType: string
  sourceId: string
  /** Of the first and of the last chunk. */
  positions: [number, number]
  /** From 1: how the passage was cited. */
  citation: number
  tokens: number
  score: number
}

/** What a model was given for an answer. Never changed, and it outlives the chunks. */
export const contextLogs = ai.table.withRLS(
  'context_logs',
  {
    organizationId: organizationId(),
    id: id(),
    userId: uuid('user_id'),

    query: text('query'),
    model: text('model'),
    items: jsonb('items').$type<ContextItem[]>().notNull(),
    budgetTokens: integer('budget_tokens').notNull(),
    totalTokens: integer('total_tokens').notNull(),

    occurredAt: instant('occurred_at').notNull().defaultNow(),
  },
  (t) => [
    // Also listContextLogs, read backwards for newest first.
    primaryKey({ name: 'context_logs_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'context_logs_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    check('context_logs_total_tokens_check', sql`${t.totalTokens} between 0 and ${t.budgetTokens}`),
    ...tenantPolicies('context_logs', t.organizationId, log(t.userId)),
  ],
)

/** In the order in which they are created. */
export const aiObjects = [
  managedGrant('ai', sql`grant usage on schema ${ai} to plinth_app`),
  managedGrant('ai.context_logs', sql`grant select, insert on ${contextLogs} to plinth_app`),
  managedComment(contextLogs, 'What a model was given for an answer. Append-only.'),
]

export type ContextLog = typeof contextLogs.$inferSelect
