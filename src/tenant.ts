import { setImmediate as flushed } from 'node:timers/promises'
import { is, sql } from 'drizzle-orm'
import { PgAsyncTransaction } from 'drizzle-orm/pg-core'
import { type Database, isPipelined, mapErrors, only } from './database.ts'
import { toPlinthError } from './driver-errors.ts'
import { ForbiddenError, TransactionError } from './errors.ts'
import type { MembershipRole } from './schema/identity.ts'
import { checkUuid } from './validation.ts'

/** One member, acting in one organization. */
export interface Scope {
  readonly organizationId: string
  readonly userId: string
}

/** As what the scope was entered: a member's role, or `service` for work in nobody's name. */
export type ScopeRole = MembershipRole | 'service'

const entered = Symbol('entered')

/**
 * A transaction in which Postgres shows the rows of one organization only.
 *
 * Nothing but the functions of this file makes one, so a query that takes a `Tenant` cannot be called
 * out of scope.
 */
export interface Tenant {
  readonly [entered]: true
  readonly db: Database
  readonly organizationId: string
  /** Undefined for a service. */
  readonly userId: string | undefined
  /** A promise, so that whoever does not ask for the role does not wait for it. */
  readonly role: Promise<ScopeRole>
}

type Work<T> = (tenant: Tenant) => Promise<T>

/** An organization, and who acts in it: a member, or nobody. */
interface Entrance {
  readonly organizationId: string
  readonly userId: string | undefined
}

/** The scope that each open transaction is in. */
const tenants = new WeakMap<Database, Tenant>()

/** The transactions in which a scope is open: the savepoints of two at once would interleave. */
const busy = new WeakSet<Database>()

/**
 * Runs `work` in a transaction, as a member of an organization.
 *
 * Entering is sent but not awaited: it travels with BEGIN and the first query of `work`. A refusal aborts the transaction, so that no later query of it can run. Within a transaction
 * that is in the same scope already, `work` joins it.
 *
 * @throws {ForbiddenError} for who is no member, an archived organization, a deactivated user, and
 * from within another scope.
 * @throws {TransactionError} if a query failed and its error was caught: nothing was written then.
 * @throws {ValidationError} for an id that is no UUID.
 */
export async function inTenant<T>(
  db: Database,
  { organizationId, userId }: Scope,
  work: Work<T>,
): Promise<T> {
  checkUuid('organizationId', organizationId)
  checkUuid('userId', userId)
  return within(db, { organizationId, userId }, work)
}

/**
 * Runs `work` on one organization in nobody's name, with the role `service`: under the same policies,
 * which give it what an admin may do. For jobs of the platform; never for a request of a user.
 *
 * @throws {ForbiddenError} for an unknown or archived organization, and from within another scope.
 * @throws {TransactionError} if a query failed and its error was caught.
 * @throws {ValidationError} for an id that is no UUID.
 */
export async function asService<T>(
  db: Database,
  organizationId: string,
  work: Work<T>,
): Promise<T> {
  checkUuid('organizationId', organizationId)
  return within(db, { organizationId, userId: undefined }, work)
}

/**
 * Runs independent reads in one flight: BEGIN, the scope, every query and COMMIT are sent together, and
 * so take one round trip where `inTenant` takes two. Answers in the order of the queries.
 *
 * The transaction is read only, since a query that sends a second statement after the first one's
 * answer comes too late: it is refused, and nothing can be half done.
 *
 * @throws what `inTenant` throws; {TransactionError} for a write and for a late statement.
 */
export async function readInTenant<const Queries extends readonly PromiseLike<unknown>[]>(
  db: Database,
  { organizationId, userId }: Scope,
  queries: (tenant: Tenant) => Queries,
): Promise<Answers<Queries>> {
  checkUuid('organizationId', organizationId)
  checkUuid('userId', userId)
  const entrance = { organizationId, userId }
  // Within a transaction there is no COMMIT to send along, and read only would outlive the scope.
  if (is(db, PgAsyncTransaction)) return within(db, entrance, (tenant) => allOf(queries(tenant)))

  return mapErrors(() =>
    db.transaction(async (tx) => {
      const role = awaitedLater(enter(tx, entrance, { readOnly: true }))
      if (!isPipelined(db)) await role
      const answers = awaitedLater(allOf(queries(bind(tx, entrance, role))))
      if (isPipelined(db)) {
        // By then each query has sent its statement, through however many promises it went.
        await flushed()
        awaitedLater(tx.execute(sql`commit`).execute())
      }
      await role
      return answers
    }),
  )
}

/**
 * An organization on a database: a `Tenant`, or a database with whom to act for. What takes one works within
 * a scope, in its transaction, and outside of any, in transactions of its own.
 */
export interface Tenancy {
  readonly db: Database
  readonly organizationId: string
  /** Undefined for a service. */
  readonly userId?: string | undefined
}

/** Runs `work` in the scope of a tenancy: the one that is open, or one of its own. @throws as `inTenant`. */
export const withTenant = <T>(
  { db, organizationId, userId }: Tenancy,
  work: Work<T>,
): Promise<T> =>
  userId === undefined
    ? asService(db, organizationId, work)
    : inTenant(db, { organizationId, userId }, work)

async function within<T>(db: Database, entrance: Entrance, work: Work<T>): Promise<T> {
  const outer = tenants.get(db)
  if (outer) {
    if (
      outer.organizationId !== entrance.organizationId.toLowerCase() ||
      outer.userId !== entrance.userId?.toLowerCase()
    ) {
      throw new ForbiddenError(
        'already_in_scope',
        `the transaction is in the scope of organization ${outer.organizationId}; another one needs a transaction of its own`,
      )
    }
    return work(outer)
  }
  if (busy.has(db)) {
    throw new TransactionError(
      'a scope is open in this transaction; await its end before the next one',
    )
  }
  if (is(db, PgAsyncTransaction)) busy.add(db)
  return mapErrors(async () => {
    // Other drivers take one query at a time, and do not look at what COMMIT answers. Nor is a savepoint the
    // end of SET LOCAL, as COMMIT is.
    const paced = !isPipelined(db)
    let seal = () => {}
    const running = db.transaction(async (tx) => {
      seal = sealable(tx)
      const role = awaitedLater(enter(tx, entrance))
      if (paced) await role
      // The refusal is the error to report, and not the aborted transaction that follows from it.
      const result = await call(work, bind(tx, entrance, role)).finally(() => role)

      // Rejects if a query of `work` failed and its error was caught: nothing has been written then.
      if (paced) await leave(tx)
      return result
    })
    // Not before: drivers release a savepoint through its own handle.
    return running.finally(() => seal())
  }).finally(() => busy.delete(db))
}

/** Calls it, so that what it throws at once is a rejection as well. */
const call = async <T>(work: Work<T>, tenant: Tenant): Promise<T> => work(tenant)

/** Makes the tenant of a transaction, and of every savepoint in it. */
function bind(tx: Database, entrance: Entrance, role: Promise<ScopeRole>): Tenant {
  const tenant: Tenant = {
    [entered]: true,
    db: tx,
    organizationId: entrance.organizationId.toLowerCase(),
    userId: entrance.userId?.toLowerCase(),
    role,
  }
  tenants.set(tx, tenant)
  const savepoint: Database['transaction'] = tx.transaction.bind(tx)
  tx.transaction = (work, ...config) =>
    savepoint(
      (inner) => {
        bind(inner, entrance, role)
        return work(inner)
      },
      ...config,
    )
  return tenant
}

/**
 * Gives a handle a session of its own, and returns what ends it. The connection of a scope that was a
 * savepoint goes on, and may be in another scope by then; no query follows through a handle that was kept.
 */
function sealable(tx: Database): () => void {
  const session: object = Object.create(tx._.session)
  Object.assign(tx, { session })
  Object.assign(tx._, { session })
  return () => {
    tenants.delete(tx)
    Object.assign(session, {
      prepareQuery: () => {
        throw new TransactionError('the scope is over: no query can follow in it')
      },
    })
  }
}

/**
 * Enters the scope, in one statement that no other query of the transaction can come before.
 *
 * Hence a select, and `execute()`: `tx.execute(sql)` and a bare `await` reach the driver later.
 */
async function enter(
  tx: Database,
  { organizationId, userId }: Entrance,
  { readOnly = false } = {},
): Promise<ScopeRole> {
  const scope = userId
    ? sql`identity.enter_scope(${organizationId}, ${userId})`
    : sql`identity.enter_service_scope(${organizationId})`
  const rows = await tx
    .select({
      role: sql<ScopeRole>`role`,
      ...(readOnly && { readOnly: sql`set_config('transaction_read_only', 'on', true)` }),
    })
    .from(sql`${scope} as role`)
    .execute()
  return only(rows).role
}

/** Gives a surrounding transaction its role back: SET LOCAL outlives the savepoint that it was made in. */
const leave = (tx: Database) => tx.execute(LEAVE).execute()

const LEAVE = sql`do $$ begin
  set local role none;
  set local plinth.organization_id = '';
  set local plinth.user_id = '';
  set local plinth.role = '';
end $$`

type Answers<Queries> = { -readonly [Key in keyof Queries]: Awaited<Queries[Key]> }

/**
 * All answers, or the first failure in order that is not merely the consequence of another one. Looks at
 * each query once: to await one of Drizzle's again is to send it again.
 */
async function allOf<const Queries extends readonly PromiseLike<unknown>[]>(
  queries: Queries,
): Promise<Answers<Queries>> {
  const settled = await Promise.allSettled(queries)
  const failures = settled.flatMap((one) =>
    one.status === 'rejected' ? [toPlinthError(one.reason)] : [],
  )
  const failure = failures.find((error) => !(error instanceof TransactionError)) ?? failures[0]
  if (failure) throw failure
  return answersOf<Queries>(
    settled.map((one) => (one.status === 'fulfilled' ? one.value : undefined)),
  )
}

/** The values that the queries of a list have come to, in the list's order, as its type has them. */
const answersOf = <Queries>(values: unknown[]): Answers<Queries> => values as Answers<Queries>

/** Marks a promise as awaited further on, so that until then its rejection is not an unhandled one. */
function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}
