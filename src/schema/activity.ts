import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  cidr,
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
import { bytea, id, instant, organizationId, timestamps } from './columns.ts'
import { organizations } from './identity.ts'
import { administered, isAdmin, log, queued, tenantPolicies } from './policies.ts'

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

/** Who tried to get in, and whether they did. Addresses of accounts are kept as hashes only. */
export const authLogs = activity.table(
  'auth_logs',
  {
    id: id(),
    /** Null: nobody was found. No key, since the log outlives the account. */
    userId: uuid('user_id'),

    /** What was tried, such as `login`. */
    event: text('event').notNull(),
    success: boolean('success').notNull(),
    /** Why it failed, in the words of the product. */
    reason: text('reason'),
    /** HMAC-SHA-256 of the address in lower case, by a key of the service; without one, SHA-256. */
    emailHash: bytea('email_hash'),
    ip: inet('ip'),
    /** Whom the address belongs to, as far as that shows: itself, and of version 6 the first 64 bits. */
    network: cidr('network'),
    userAgent: text('user_agent'),
    requestId: text('request_id'),

    occurredAt: instant('occurred_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'auth_logs_pkey', columns: [t.occurredAt, t.id] }),
    // countRecentFailures and listAuthLogs of an address, of an account, of a network.
    index('auth_logs_email_hash_idx').on(t.emailHash, t.occurredAt, t.id),
    index('auth_logs_user_id_idx').on(t.userId, t.occurredAt, t.id),
    index('auth_logs_network_idx').on(t.network, t.occurredAt, t.id),
  ],
)

export const deliveryDirection = activity.enum('delivery_direction', ['incoming', 'outgoing'])
export const deliveryStatus = activity.enum('delivery_status', [
  'received',
  'rejected',
  'pending',
  'delivered',
  'dead',
])

/**
 * A webhook that came in, or one that is to go out. Not partitioned: an event is recorded once however many
 * months lie between its deliveries, and a queue is short. `purgeDeliveries` keeps it so.
 */
export const webhookDeliveries = activity.table.withRLS(
  'webhook_deliveries',
  {
    organizationId: organizationId(),
    id: id(),

    direction: deliveryDirection('direction').notNull(),
    status: deliveryStatus('status').notNull(),
    provider: text('provider').notNull(),
    /** What happened, such as `invoice.paid`. */
    event: text('event').notNull(),
    /** The sender's own id of it: the same when it is delivered again. */
    eventId: text('event_id'),
    /** Where it goes; null for what came in. */
    url: text('url'),
    payload: jsonb('payload').$type<Record<string, unknown>>().notNull().default({}),
    headers: jsonb('headers').$type<Record<string, unknown>>().notNull().default({}),

    /** How often it was claimed, and how often it may be. */
    attempts: integer('attempts').notNull().default(0),
    maxAttempts: integer('max_attempts').notNull().default(1),
    responseStatus: integer('response_status'),
    /** The beginning of what the receiver answered, or why it did not. */
    response: text('response'),
    /** Which claim it is under. Who has another one comes too late. */
    leaseId: uuid('lease_id'),

    /** Not claimed before; under a claim, the end of it. */
    nextAttemptAt: instant('next_attempt_at').notNull().defaultNow(),
    settledAt: instant('settled_at'),
    ...timestamps(),
  },
  (t) => [
    // Also listDeliveries.
    primaryKey({ name: 'webhook_deliveries_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'webhook_deliveries_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    // What has no right signature may bear any id, and must not stand in the way of the one that has.
    uniqueIndex('webhook_deliveries_event_id_key')
      .on(t.organizationId, t.direction, t.provider, t.eventId)
      .where(sql`${t.status} <> 'rejected'`),
    // claimDeliveries and listDueOrganizations.
    index('webhook_deliveries_next_attempt_at_idx')
      .on(t.organizationId, t.nextAttemptAt, t.id)
      .where(sql`${t.status} = 'pending'`),
    // listDeliveries of a status.
    index('webhook_deliveries_status_idx').on(t.organizationId, t.status, t.id),
    check(
      'webhook_deliveries_url_check',
      sql`(${t.direction} = 'outgoing') = (${t.url} is not null)`,
    ),
    check('webhook_deliveries_attempts_check', sql`${t.attempts} >= 0 and ${t.maxAttempts} >= 1`),
    ...tenantPolicies('webhook_deliveries', t.organizationId, queued()),
  ],
)

export const errorLevel = activity.enum('error_level', [
  'debug',
  'info',
  'warning',
  'error',
  'fatal',
])

/** One occurrence of something that went wrong. */
export const errorLogs = activity.table(
  'error_logs',
  {
    id: id(),
    /** Whom it happened to. Not `organization_id`: errors are the platform's, and no tenant's to see. */
    organizationId: uuid('affected_organization_id'),
    userId: uuid('user_id'),

    level: errorLevel('level').notNull(),
    code: text('code'),
    /** The same for errors of the same cause: see error_groups. */
    fingerprint: text('fingerprint').notNull(),
    message: text('message').notNull(),
    stack: text('stack'),
    context: jsonb('context').$type<Record<string, unknown>>().notNull().default({}),
    requestId: text('request_id'),

    occurredAt: instant('occurred_at').notNull().defaultNow(),
  },
  (t) => [
    // Also listErrors.
    primaryKey({ name: 'error_logs_pkey', columns: [t.occurredAt, t.id] }),
    // listErrors of a group, of an organization, of a user; how often a group has occurred.
    index('error_logs_fingerprint_idx').on(t.fingerprint, t.occurredAt, t.id),
    index('error_logs_organization_idx').on(t.organizationId, t.occurredAt, t.id),
    index('error_logs_user_id_idx').on(t.userId, t.occurredAt, t.id),
  ],
)

/**
 * Errors of one cause, as the first one was. Not a view: it has to be resolved, and listed by when it was
 * last seen. How often that was is counted in the log, so that errors by the thousand do not queue here.
 */
export const errorGroups = activity.table(
  'error_groups',
  {
    id: id(),

    fingerprint: text('fingerprint').notNull(),
    level: errorLevel('level').notNull(),
    code: text('code'),
    message: text('message').notNull(),

    firstSeenAt: instant('first_seen_at').notNull(),
    /** To the minute. */
    lastSeenAt: instant('last_seen_at').notNull(),
    /** Null again from the next occurrence on. */
    resolvedAt: instant('resolved_at'),
    resolvedBy: uuid('resolved_by'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'error_groups_pkey', columns: [t.id] }),
    uniqueIndex('error_groups_fingerprint_key').on(t.fingerprint),
    // listErrorGroups.
    index('error_groups_last_seen_at_idx').on(t.lastSeenAt, t.id),
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

export type ActivityLog = typeof activityLogs.$inferSelect
export type AuthLog = typeof authLogs.$inferSelect
export type WebhookDelivery = typeof webhookDeliveries.$inferSelect
export type DeliveryStatus = WebhookDelivery['status']
export type ErrorLog = typeof errorLogs.$inferSelect
export type ErrorLevel = ErrorLog['level']
export type ErrorGroup = typeof errorGroups.$inferSelect
