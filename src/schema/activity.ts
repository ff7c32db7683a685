import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  foreignKey,
  index,
  inet,
  integer,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, id, instant, organizationId } from './columns.ts'
import { organizations } from './identity.ts'
import { managedCall, managedComment, managedGrant, managedPartitioning } from './managed.ts'
import { administered, isAdmin, log, tenantPolicies } from './policies.ts'

export const activity = pgSchema('activity')

/** Who did what to which thing. It outlives the thing and the membership: no key ties it to either. */
export const activityLogs = activity.table.withRLS(
  'activity_logs',
  {
    organizationId: organizationId(),
    id: id(),
    /** Null: nobody, the system. */
    actorId: uuid('actor_id'),

    /** What was done, such as `document.created`. */
    action: text('action').notNull(),
    resourceType: text('resource_type'),
    resourceId: text('resource_id'),
    /** As it was called then. */
    resourceName: text('resource_name'),
    changes: jsonb('changes').$type<Record<string, unknown>>(),
    metadata: jsonb('metadata').$type<Record<string, unknown>>().notNull().default({}),
    ip: inet('ip'),
    userAgent: text('user_agent'),
    requestId: text('request_id'),

    occurredAt: instant('occurred_at').notNull().defaultNow(),
  },
  (t) => [
    // Also listActivity, read backwards for newest first.
    primaryKey({ name: 'activity_logs_pkey', columns: [t.organizationId, t.occurredAt, t.id] }),
    foreignKey({
      name: 'activity_logs_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    // listActivity of an actor, of a resource, of an action.
    index('activity_logs_actor_id_idx').on(t.organizationId, t.actorId, t.occurredAt, t.id),
    index('activity_logs_resource_idx').on(
      t.organizationId,
      t.resourceType,
      t.resourceId,
      t.occurredAt,
      t.id,
    ),
    index('activity_logs_action_idx').on(t.organizationId, t.action, t.occurredAt, t.id),
    ...tenantPolicies('activity_logs', t.organizationId, log(t.actorId)),
  ],
)

/** Whether the log of an organization is sealed. */
export const activityChains = activity.table.withRLS(
  'chains',
  {
    organizationId: organizationId(),

    enabledAt: instant('enabled_at').notNull().defaultNow(),
    disabledAt: instant('disabled_at'),
  },
  (t) => [
    primaryKey({ name: 'chains_pkey', columns: [t.organizationId] }),
    foreignKey({
      name: 'chains_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    ...tenantPolicies('chains', t.organizationId, administered()),
  ],
)

/** A batch of lines of the log, sealed: its hash is of theirs and of the seal before. Never changed. */
export const activitySeals = activity.table.withRLS(
  'seals',
  {
    organizationId: organizationId(),
    /** From 1, without a gap. */
    sequence: bigint('sequence', { mode: 'number' }).notNull(),

    /** Null for the first one. */
    previousHash: bytea('previous_hash'),
    rowCount: integer('row_count').notNull(),
    /** SHA-256 of the digests of its rows, one after the other. */
    rowsHash: bytea('rows_hash').notNull(),
    /** Of its rows, the earliest and the latest time. */
    firstAt: instant('first_at').notNull(),
    lastAt: instant('last_at').notNull(),
    hash: bytea('hash').notNull(),

    /** What was in the log at this instant is sealed by now; null: there may be more. */
    completeAt: instant('complete_at'),
    sealedAt: instant('sealed_at').notNull(),
  },
  (t) => [
    primaryKey({ name: 'seals_pkey', columns: [t.organizationId, t.sequence] }),
    foreignKey({
      name: 'seals_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    check('seals_sequence_check', sql`(${t.sequence} = 1) = (${t.previousHash} is null)`),
    ...tenantPolicies('seals', t.organizationId, { read: isAdmin }),
  ],
)

/** The digest of a line of the log as it was when it was sealed. No key ties it to the line, which may be gone. */
export const sealedRows = activity.table.withRLS(
  'sealed_rows',
  {
    organizationId: organizationId(),
    sequence: bigint('sequence', { mode: 'number' }).notNull(),
    /** In its seal, from 1. */
    position: integer('position').notNull(),
    rowId: uuid('row_id').notNull(),

    /** SHA-256: see `activity.row_digest`. */
    digest: bytea('digest').notNull(),

    occurredAt: instant('occurred_at').notNull(),
  },
  (t) => [
    primaryKey({ name: 'sealed_rows_pkey', columns: [t.organizationId, t.sequence, t.position] }),
    // Each line once; and which ones are not sealed yet.
    uniqueIndex('sealed_rows_row_key').on(t.organizationId, t.occurredAt, t.rowId),
    foreignKey({
      name: 'sealed_rows_sequence_fkey',
      columns: [t.organizationId, t.sequence],
      foreignColumns: [activitySeals.organizationId, activitySeals.sequence],
    }).onDelete('cascade'),
    ...tenantPolicies('sealed_rows', t.organizationId, { read: isAdmin }),
  ],
)

/** In the order in which they are created. */
export const activityObjects = [
  managedPartitioning(activityLogs, 'range', activityLogs.occurredAt),
  managedGrant('activity', sql`grant usage on schema ${activity} to plinth_app, plinth_platform`),
  managedGrant(
    'activity.activity_logs',
    sql`grant select, insert on ${activityLogs} to plinth_app`,
  ),
  managedGrant(
    'activity.chains',
    sql`grant select, insert, update, delete on ${activityChains} to plinth_app`,
  ),
  managedGrant('activity.seals', sql`grant select on ${activitySeals} to plinth_app`),
  managedGrant('activity.sealed_rows', sql`grant select on ${sealedRows} to plinth_app`),
  managedCall(
    'partitions of activity.activity_logs',
    sql`select partitions.create_months('activity', 'activity_logs', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(activityLogs, 'Who did what to which thing. Append-only.'),
  managedComment(activityChains, 'Whether the log of an organization is sealed.'),
  managedComment(activitySeals, 'A sealed batch of lines of the log; a chain by their hashes.'),
  managedComment(sealedRows, 'The digest of a line of the log as it was when it was sealed.'),
]

export type ActivityLog = typeof activityLogs.$inferSelect
