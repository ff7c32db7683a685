/**
 * Every error that plinth throws. Data are fields; no message holds a query's parameters, so that none
 * of them can carry a secret into a log.
 */
export abstract class PlinthError extends Error {
  abstract override readonly name: string
}

/** An argument that plinth cannot serve. Thrown before any SQL: an open transaction stays usable. */
export class ValidationError extends PlinthError {
  override readonly name = 'ValidationError'
  /** The path of the argument, such as `entries[3].resourceId`. */
  readonly argument: string
  /** What is wrong with it, as a sentence without its subject. */
  readonly problem: string

  constructor(argument: string, problem: string) {
    super(`${argument} ${problem}`)
    this.argument = argument
    this.problem = problem
  }
}

/** A row that had to exist does not, or may not be seen; which of the two, it does not tell. */
export class NotFoundError extends PlinthError {
  override readonly name = 'NotFoundError'
  readonly entity: string
  readonly id: string

  constructor(entity: string, id: string) {
    super(`${entity} ${id} not found`)
    this.entity = entity
    this.id = id
  }
}

/** Why a scope could not be entered, or a statement not be run in it. */
export type ForbiddenReason =
  | 'not_a_member'
  | 'user_deactivated'
  | 'organization_archived'
  | 'organization_not_found'
  | 'already_in_scope'
  | 'permission'

/** No right to it: no membership, a row outside the scope, a role that is too low, or no grant. */
export class ForbiddenError extends PlinthError {
  override readonly name = 'ForbiddenError'
  readonly reason: ForbiddenReason

  constructor(reason: ForbiddenReason, message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}

export type ConstraintKind = 'unique' | 'foreign_key' | 'check' | 'not_null' | 'exclusion'

/** What the data would have broken: a row that exists already, one that is missing, or a rule of the table. */
export class ConstraintError extends PlinthError {
  override readonly name = 'ConstraintError'
  readonly kind: ConstraintKind
  /**
   * As named in the schema, such as `organizations_slug_key`; a column's name for `not_null`. Of a key of
   * a partitioned table, Postgres gives the name that it has in the partition, and the partition's.
   */
  readonly constraint: string
  readonly table: string

  constructor(kind: ConstraintKind, constraint: string, table: string, options?: ErrorOptions) {
    super(`${kind} constraint ${constraint} of ${table} refused the row`, options)
    this.kind = kind
    this.constraint = constraint
    this.table = table
  }
}

/** An organization would be left without an owner. Make another member an owner first. */
export class LastOwnerError extends PlinthError {
  override readonly name = 'LastOwnerError'
  readonly organizationId: string

  constructor(organizationId: string) {
    super(`organization ${organizationId} would have no owner; transfer the ownership first`)
    this.organizationId = organizationId
  }
}

/** An invitation that cannot be accepted any more. Ask for a new one. */
export class InvitationError extends PlinthError {
  override readonly name = 'InvitationError'
  readonly reason: 'unknown' | 'expired' | 'revoked' | 'accepted' | 'email'

  constructor(reason: InvitationError['reason']) {
    super(
      {
        unknown: 'the invitation does not exist',
        expired: 'the invitation has expired; ask for a new one',
        revoked: 'the invitation was revoked',
        accepted: 'the invitation was accepted already',
        email: 'the invitation was made out to another email address',
      }[reason],
    )
    this.reason = reason
  }
}

/** No partition holds the month of a row. `plinth partitions` makes the missing ones. */
export class MissingPartitionError extends PlinthError {
  override readonly name = 'MissingPartitionError'
  readonly table: string

  constructor(table: string, options?: ErrorOptions) {
    super(
      `${table} has no partition for the time of a row; run: plinth partitions --from YYYY-MM --to YYYY-MM`,
      options,
    )
    this.table = table
  }
}

const SPACE_PROBLEMS = ['not_covered', 'active', 'in_use', 'no_predecessor'] as const

/** A space that is not in the state for it. Nothing was changed; the message says the way. */
export class SpaceError extends PlinthError {
  override readonly name = 'SpaceError'
  /**
   * `not_covered`: chunks lack their vector in it; `active`: it is searched; `in_use`: another engine has
   * vectors of it; `no_predecessor`: none was active before.
   */
  readonly reason: (typeof SPACE_PROBLEMS)[number]

  constructor(reason: SpaceError['reason'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}

/** Somebody else holds what the statement needs. Nothing was written; the transaction may be run again. */
export class LockError extends PlinthError {
  override readonly name = 'LockError'
  readonly kind: 'not_available' | 'deadlock' | 'serialization'

  constructor(kind: LockError['kind'], options?: ErrorOptions) {
    super(`lock: ${kind.replace('_', ' ')}; run the transaction again`, options)
    this.kind = kind
  }
}

/** It took longer than allowed. */
export class TimeoutError extends PlinthError {
  override readonly name = 'TimeoutError'
  /** What was waited for: a free connection, opening one, or the statement itself. */
  readonly waitedFor: 'connection' | 'statement' | 'idle_transaction'

  constructor(waitedFor: TimeoutError['waitedFor'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.waitedFor = waitedFor
  }
}

/**
 * The connection could not be opened, or was lost. In a transaction nothing of it was written, unless
 * COMMIT was already on its way: then `committed` is 'unknown'.
 */
export class ConnectionError extends PlinthError {
  override readonly name = 'ConnectionError'
  readonly committed: 'no' | 'unknown'

  constructor(
    message: string,
    { committed = 'no', ...options }: ErrorOptions & { committed?: 'no' | 'unknown' } = {},
  ) {
    super(message, options)
    this.committed = committed
  }
}

/** The transaction did what it should not: went on after its end, or swallowed a failure. It was rolled back. */
export class TransactionError extends PlinthError {
  override readonly name = 'TransactionError'
}

/** The buffer takes no more: it is full, or closed. The line was not recorded. */
export class BufferError extends PlinthError {
  override readonly name = 'BufferError'
  readonly reason: 'full' | 'closed'

  constructor(reason: BufferError['reason'], message: string) {
    super(message)
    this.reason = reason
  }
}

/** The embedded database is open in another process. PGlite has one writer. */
export class DatabaseInUseError extends PlinthError {
  override readonly name = 'DatabaseInUseError'
  readonly folder: string

  constructor(folder: string, pid: number) {
    super(`${folder} is open in process ${pid}; close that one, or use another folder`)
    this.folder = folder
  }
}

/** A package that is optional, and that this call needs. */
export class MissingPackageError extends PlinthError {
  override readonly name = 'MissingPackageError'
  readonly packages: readonly string[]

  constructor(packages: readonly string[], options?: ErrorOptions) {
    super(`not installed: ${packages.join(', ')}; run: npm install ${packages.join(' ')}`, options)
    this.packages = packages
  }
}

/** Another engine that holds vectors did not do what it was asked to. The vectors here are as they were. */
export class StoreError extends PlinthError {
  override readonly name = 'StoreError'
  /** As the VectorStore names itself. */
  readonly store: string
  /** It was not reached, did not answer in time, or did not take what it was given. */
  readonly kind: 'unavailable' | 'timeout' | 'refused'

  constructor(store: string, kind: StoreError['kind'], message: string, options?: ErrorOptions) {
    super(`${store}: ${message}`, options)
    this.store = store
    this.kind = kind
  }
}

/** A migration that cannot be made or applied as it is. The message says how to mend it. */
export class MigrationError extends PlinthError {
  override readonly name = 'MigrationError'
}

/** The database and the folders tell different stories. Nothing was changed; the message has the ways out. */
export class MigrationStateError extends PlinthError {
  override readonly name = 'MigrationStateError'
  readonly problems: readonly { name: string; state: string; problem: string }[]

  constructor(problems: MigrationStateError['problems']) {
    super(problems.map(({ problem }) => problem).join('\n'))
    this.problems = problems
  }
}

/** To revert would lose data. Nothing was changed. */
export class DataLossError extends PlinthError {
  override readonly name = 'DataLossError'
  /** Such as `column app.posts.title` and how many rows have a value in it. */
  readonly losses: readonly { name: string; rows: number }[]

  constructor(losses: DataLossError['losses']) {
    const list = losses.map(({ name, rows }) => `${name} (${rows.toLocaleString('en')} rows)`)
    super(
      `it would lose ${list.join(', ')}; pass --allow-data-loss (allowDataLoss: true) if that is meant`,
    )
    this.losses = losses
  }
}

/** No database could be made to build the declared state in. The message says the way out. */
export class ScratchError extends PlinthError {
  override readonly name = 'ScratchError'
  /**
   * `url`: nowhere to make it; `createdb`: no right to; `version`: another major version of Postgres;
   * `extension`: one that only a superuser may create, or that the server has not.
   */
  readonly reason: 'url' | 'createdb' | 'version' | 'extension'

  constructor(reason: ScratchError['reason'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}

/** What drivers put on an error, each under names of its own. */
interface DriverError extends Error {
  code?: unknown
  detail?: unknown
  hint?: unknown
  constraint?: unknown
  constraint_name?: unknown
  table?: unknown
  table_name?: unknown
  column?: unknown
  column_name?: unknown
}

const CONSTRAINTS: Record<string, ConstraintKind> = {
  '23505': 'unique',
  '23503': 'foreign_key',
  '23514': 'check',
  '23502': 'not_null',
  '23P01': 'exclusion',
}
const LOCKS: Record<string, LockError['kind']> = {
  '55P03': 'not_available',
  '40P01': 'deadlock',
  '40001': 'serialization',
}
const REASONS: readonly unknown[] = [
  'not_a_member',
  'user_deactivated',
  'organization_archived',
  'organization_not_found',
] satisfies ForbiddenReason[]
const isReason = (detail: unknown): detail is ForbiddenReason => REASONS.includes(detail)

/** Lost, refused, or shut down: SQLSTATE class 08, operator intervention, or a socket's code. */
const isConnectionCode = (code: string) =>
  /^(08\w{3}|57P0[123]|53300|28\w{3})$|^(ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|EHOSTUNREACH|CONNECT)/.test(
    code,
  )

/**
 * What plinth throws for an error of the database or its driver: one of the classes above where it knows
 * the kind, and otherwise the error itself.
 *
 * The cause keeps code and message, but not the detail, in which Postgres quotes the row's values.
 */
export function toPlinthError(error: unknown): unknown {
  if (error instanceof PlinthError) return error
  const found = findDriverError(error)
  if (!found) return error
  // Drizzle wraps what its driver throws, our own errors too.
  if (found instanceof PlinthError) return found

  const code = String(found.code)
  const cause = Object.assign(new Error(found.message), { code })
  const named = (...keys: (keyof DriverError)[]) =>
    keys.map((key) => found[key]).find((value) => typeof value === 'string') ?? ''

  if (code === '23514' && found.message.startsWith('no partition of relation')) {
    return new MissingPartitionError(found.message.split('"')[1] ?? '', { cause })
  }
  const constraint = CONSTRAINTS[code]
  if (constraint) {
    const name = named('constraint_name', 'constraint', 'column_name', 'column')
    return new ConstraintError(constraint, name, named('table_name', 'table'), { cause })
  }
  const lock = LOCKS[code]
  if (lock) return new LockError(lock, { cause })
  const [, extension] = /^extension "(.+)" is not available/.exec(found.message) ?? []
  if (extension) {
    return new MigrationError(
      `the server has no extension ${extension}; install it there, or ask for it, and migrate again`,
      { cause },
    )
  }
  if (code === '42501') {
    const reason = isReason(found.detail) ? found.detail : 'permission'
    return new ForbiddenError(reason, found.message, { cause })
  }
  if (code === '22023') {
    const argument = /^plinth\.(.+)/.exec(named('detail'))?.[1]
    if (argument) return new ValidationError(argument, found.message)
    if (/^time zone/.test(found.message)) return new ValidationError('timeZone', found.message)
  }
  if (code === '55000') {
    const reason = SPACE_PROBLEMS.find((it) => named('detail') === `plinth.space.${it}`)
    if (reason) return new SpaceError(reason, found.message, { cause })
  }
  // What a function of the database looked for, as it says itself.
  if (code === 'P0002') return new NotFoundError(named('detail'), named('hint'))
  if (code === '57014') {
    return new TimeoutError('statement', `${found.message}; see statementTimeoutMs`, { cause })
  }
  if (code === '25P03') return new TimeoutError('idle_transaction', found.message, { cause })
  if (code === '25P02') {
    return new TransactionError('a query failed before, so that the transaction is lost', { cause })
  }
  if (code === '25001' && named('detail') === 'plinth.isolation') {
    return new TransactionError(found.message, { cause })
  }
  if (code === '25006') {
    return new TransactionError(`${found.message}; write in inTenant`, { cause })
  }
  if (isConnectionCode(code)) return new ConnectionError(`connection: ${found.message}`, { cause })
  return error
}

/** The first error in the chain of causes that has a code, or is plinth's own. */
function findDriverError(error: unknown): DriverError | PlinthError | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at instanceof PlinthError) return at
    if ('code' in at && typeof at.code === 'string') return at
  }
}
