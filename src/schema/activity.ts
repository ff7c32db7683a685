import { sql } from 'drizzle-orm'
import {
  foreignKey,
  index,
  inet,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  uuid,
} from 'drizzle-orm/pg-core'
import { id, instant, organizationId } from './columns.ts'
import { organizations } from './identity.ts'
import { managedCall, managedComment, managedGrant, managedPartitioning } from './managed.ts'
import { log, tenantPolicies } from './policies.ts'

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

/** In the order in which they are created. */
export const activityObjects = [
  managedPartitioning(activityLogs, 'range', activityLogs.occurredAt),
  managedGrant('activity', sql`grant usage on schema ${activity} to plinth_app`),
  managedGrant(
    'activity.activity_logs',
    sql`grant select, insert on ${activityLogs} to plinth_app`,
  ),
  managedCall(
    'partitions of activity.activity_logs',
    sql`select partitions.create_months('activity', 'activity_logs', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(activityLogs, 'Who did what to which thing. Append-only.'),
]

export type ActivityLog = typeof activityLogs.$inferSelect
