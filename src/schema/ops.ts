import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  foreignKey,
  index,
  integer,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  unique,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, id, instant, organizationId } from './columns.ts'
import { organizations } from './identity.ts'
import { managedComment, managedGrant } from './managed.ts'

// No role has a privilege on these tables: the functions of guards.ts alone write and read them, so that
// nobody takes a lock from its holder, fills a bucket, or turns a completed key back.

export const ops = pgSchema('ops')

export const idempotencyState = ops.enum('idempotency_state', ['claimed', 'completed'])

/**
 * A request under a key that its caller chose, and what came of it. Each user has the own keys, and so has
 * the service. A completed one never changes; once expired it is as if it were not there.
 */
export const idempotencyKeys = ops.table.withRLS(
  'idempotency_keys',
  {
    organizationId: organizationId(),
    /** Of whoever holds the key, or has completed it. */
    claimId: uuid('claim_id').notNull(),
    /** Null: the service's. */
    userId: uuid('user_id'),

    key: text('key').notNull(),
    state: idempotencyState('state').notNull().default('claimed'),
    /** SHA-256 of the request as canonical JSON. */
    fingerprint: bytea('fingerprint').notNull(),
    /** Null: undefined, or not kept. */
    response: jsonb('response'),
    /** False of a response that was no JSON, or too large. */
    responseKept: boolean('response_kept').notNull().default(true),
    /** Claims so far; each but the last is of a holder whose lease ran out. */
    attempts: integer('attempts').notNull().default(1),

    leasedUntil: instant('leased_until').notNull(),
    createdAt: instant('created_at').notNull(),
    completedAt: instant('completed_at'),
    /** Never before the lease ends. */
    expiresAt: instant('expires_at').notNull(),
  },
  (t) => [
    // A row that is claimed anew has another one: whoever shares the row's key keeps that away.
    primaryKey({ name: 'idempotency_keys_pkey', columns: [t.organizationId, t.claimId] }),
    foreignKey({
      name: 'idempotency_keys_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    unique('idempotency_keys_key_key').on(t.organizationId, t.key, t.userId).nullsNotDistinct(),
    // purgeOps.
    index('idempotency_keys_expires_at_idx').on(t.expiresAt),
    check('idempotency_keys_fingerprint_check', sql`length(${t.fingerprint}) = 32`),
    check(
      'idempotency_keys_state_check',
      sql`(${t.state} = 'completed') = (${t.completedAt} is not null)`,
    ),
    check('idempotency_keys_expires_at_check', sql`${t.expiresAt} >= ${t.leasedUntil}`),
  ],
)

const lease = () => ({
  /** Who has it, or had it last, as they call themselves. */
  holder: text('holder'),
  /**
   * Greater with every acquisition: one more, or the database's clock in microseconds, whichever is the
   * greater. So it rises also when the row was purged or its transaction rolled back.
   */
  fencingToken: bigint('fencing_token', { mode: 'bigint' }).notNull(),

  /** In the past: free. */
  leasedUntil: instant('leased_until').notNull(),
  acquiredAt: instant('acquired_at').notNull(),
})

/** A lock of the platform, held or free. */
export const locks = ops.table('locks', { name: text('name').notNull(), ...lease() }, (t) => [
  primaryKey({ name: 'locks_pkey', columns: [t.name] }),
  // With the token in a key of the row, whoever shares that key keeps a successor away, and no extension.
  uniqueIndex('locks_fencing_token_key').on(t.name, t.fencingToken),
])

/** A lock of an organization, held or free. */
export const tenantLocks = ops.table.withRLS(
  'tenant_locks',
  { organizationId: organizationId(), name: text('name').notNull(), ...lease() },
  (t) => [
    primaryKey({ name: 'tenant_locks_pkey', columns: [t.organizationId, t.name] }),
    foreignKey({
      name: 'tenant_locks_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    // As of locks.
    uniqueIndex('tenant_locks_fencing_token_key').on(t.organizationId, t.name, t.fencingToken),
  ],
)

const bucket = () => ({
  /** What was left in it then, in billionths of a token. */
  nanotokens: bigint('nanotokens', { mode: 'bigint' }).notNull(),

  refilledAt: instant('refilled_at').notNull(),
  /** From when on it says no more than no row would; null: never, as it is not refilled. */
  fullAt: instant('full_at'),
})

/** A token bucket of an organization, or of a user in it. It is updated often: hence no index but its keys. */
export const rateLimits = ops.table.withRLS(
  'rate_limits',
  {
    organizationId: organizationId(),
    id: id(),
    /** Null: the organization's. */
    userId: uuid('user_id'),

    key: text('key').notNull(),
    ...bucket(),
  },
  (t) => [
    primaryKey({ name: 'rate_limits_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'rate_limits_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    unique('rate_limits_key_key').on(t.organizationId, t.key, t.userId).nullsNotDistinct(),
    check('rate_limits_nanotokens_check', sql`${t.nanotokens} >= 0`),
  ],
)

/** A token bucket of callers without an organization, such as an address. */
export const publicRateLimits = ops.table(
  'public_rate_limits',
  { key: text('key').notNull(), ...bucket() },
  (t) => [
    primaryKey({ name: 'public_rate_limits_pkey', columns: [t.key] }),
    check('public_rate_limits_nanotokens_check', sql`${t.nanotokens} >= 0`),
  ],
)

/** In the order in which they are created. */
export const opsObjects = [
  managedGrant('ops', sql`grant usage on schema ${ops} to plinth_app, plinth_platform`),
  managedComment(idempotencyKeys, 'A request under a key of its caller, and what came of it.'),
  managedComment(locks, 'A lock of the platform, held or free.'),
  managedComment(tenantLocks, 'A lock of an organization, held or free.'),
  managedComment(rateLimits, 'A token bucket of an organization, or of a user in it.'),
  managedComment(publicRateLimits, 'A token bucket of callers without an organization.'),
]

export type IdempotencyKey = typeof idempotencyKeys.$inferSelect
export type IdempotencyState = IdempotencyKey['state']
