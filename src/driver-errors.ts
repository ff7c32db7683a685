import {
  ConnectionError,
  ConstraintError,
  type ConstraintKind,
  ForbiddenError,
  type ForbiddenReason,
  LastOwnerError,
  LockError,
  MigrationError,
  MissingPartitionError,
  NotFoundError,
  PlinthError,
  SpaceError,
  TimeoutError,
  TransactionError,
  ValidationError,
} from './errors.ts'
import { ReservationError } from './guard-errors.ts'

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
const SPACE_REASONS: readonly SpaceError['reason'][] = [
  'not_covered',
  'active',
  'in_use',
  'no_predecessor',
]
const RESERVATION_REASONS: readonly ReservationError['reason'][] = ['settled', 'released', 'ended']
const isReason = (detail: unknown): detail is ForbiddenReason => REASONS.includes(detail)

/** Lost, refused, or shut down: SQLSTATE class 08, operator intervention, or a socket's code. */
const isConnectionCode = (code: string) =>
  /^(08\w{3}|57P0[123]|53300|28\w{3})$|^(ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|EHOSTUNREACH|CONNECT)/.test(
    code,
  )

/**
 * What plinth throws for an error of the database or its driver: one of its own classes where it knows
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
  if (code === '22003' && found.message.startsWith('bigint out of range')) {
    return new ValidationError('amount', 'brings a sum of amounts above 2^63-1')
  }
  if (code === '55000') {
    const reason = SPACE_REASONS.find((it) => named('detail') === `plinth.space.${it}`)
    if (reason) return new SpaceError(reason, found.message, { cause })
    if (named('detail') === 'plinth.last_owner') return new LastOwnerError(named('hint'))
    const how = RESERVATION_REASONS.find((it) => named('detail') === `plinth.reservation.${it}`)
    if (how) return new ReservationError(how, named('hint'), { cause })
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
