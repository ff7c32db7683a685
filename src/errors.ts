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

/** A space that is not in the state for it. Nothing was changed; the message says the way. */
export class SpaceError extends PlinthError {
  override readonly name = 'SpaceError'
  /**
   * `not_covered`: chunks lack their vector in it; `active`: it is searched; `in_use`: another engine has
   * vectors of it; `no_predecessor`: none was active before.
   */
  readonly reason: 'not_covered' | 'active' | 'in_use' | 'no_predecessor'

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

/** A key that lets nobody in. Of a wrong secret and of a key that is not there it tells the same. */
export class ApiKeyError extends PlinthError {
  override readonly name = 'ApiKeyError'
  readonly reason: 'unknown' | 'expired' | 'revoked' | 'scope'
  /** For `scope`: which are required, and not the key's. */
  readonly missingScopes: readonly string[]

  constructor(reason: ApiKeyError['reason'], missingScopes: readonly string[] = []) {
    super(
      {
        unknown: 'the API key is not known',
        expired: 'the API key has expired; create another one',
        revoked: 'the API key was revoked, its organization archived or its user deactivated',
        scope: `the API key lacks ${missingScopes.join(', ')}; create one that has it`,
      }[reason],
    )
    this.reason = reason
    this.missingScopes = missingScopes
  }
}

/** A ciphertext that the key ring does not open. */
export class KeyRingError extends PlinthError {
  override readonly name = 'KeyRingError'
  readonly reason: 'unknown_key' | 'tampered' | 'malformed'
  /** Of the key that is missing. */
  readonly keyId: string | undefined

  constructor(reason: KeyRingError['reason'], keyId?: string) {
    super(
      {
        unknown_key: `the key ring has no key ${keyId}; open it with that key too`,
        tampered:
          'the ciphertext was changed, moved from another place, or sealed by another key of that id',
        malformed: 'the ciphertext is no envelope of a key ring',
      }[reason],
    )
    this.reason = reason
    this.keyId = keyId
  }
}
