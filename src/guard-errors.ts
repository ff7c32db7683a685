import { PlinthError } from './errors.ts'

/** A lock that another holder has. Nothing was run. */
export class LockHeldError extends PlinthError {
  override readonly name = 'LockHeldError'
  readonly lock: string
  /** As the holder calls itself, if it does. */
  readonly holder: string | undefined
  /** Until its lease ends, in milliseconds; it may be extended, or released before. */
  readonly retryAfterMs: number

  constructor(lock: string, holder: string | undefined, retryAfterMs: number) {
    super(
      `lock ${lock} is held${holder === undefined ? '' : ` by ${holder}`}; try again in ${retryAfterMs} ms, or pass waitMs`,
    )
    this.lock = lock
    this.holder = holder
    this.retryAfterMs = retryAfterMs
  }
}

/** A lock whose lease ran out, so that another holder may have it. What is not written yet must not be. */
export class LockLostError extends PlinthError {
  override readonly name = 'LockLostError'
  readonly lock: string
  /** The fencing token, which is not the newest any more, or soon will not be. */
  readonly token: bigint

  constructor(lock: string, token: bigint) {
    super(`lock ${lock} was lost with token ${token}; stop, and acquire it anew`)
    this.lock = lock
    this.token = token
  }
}

/** A request whose answer cannot be given: see `reason`. */
export class IdempotencyError extends PlinthError {
  override readonly name = 'IdempotencyError'
  /**
   * `in_progress`: another call has the key, and no answer yet; `conflict`: the key is of another request;
   * `not_kept`: it was done, and its answer was not stored; `lost`: the lease ran out, and another call has it.
   */
  readonly reason: 'in_progress' | 'conflict' | 'not_kept' | 'lost'
  readonly key: string
  /** Of `in_progress`, in milliseconds: when the lease ends; the answer may be there before. */
  readonly retryAfterMs: number | undefined

  constructor(reason: IdempotencyError['reason'], key: string, retryAfterMs?: number) {
    const way = {
      in_progress: `is being worked on; try again in ${retryAfterMs} ms, or pass waitMs`,
      conflict: 'was used for another request; take a new key',
      not_kept:
        'is completed, and its answer was too large or no JSON to be kept; read what it did',
      lost: 'was lost to another call, since the lease ran out; what was done may be done twice',
    }
    super(`idempotency key ${key} ${way[reason]}`)
    this.reason = reason
    this.key = key
    this.retryAfterMs = retryAfterMs
  }
}

/** A model has no price, so that nothing can be reserved for a call: import prices, create one, or give an amount. */
export class UnpricedError extends PlinthError {
  override readonly name = 'UnpricedError'
  readonly provider: string
  readonly model: string

  constructor(provider: string, model: string) {
    super(
      `no price of ${provider}/${model} is known for all that the call may use; importPrices, createPrice, or give amountNanos`,
    )
    this.provider = provider
    this.model = model
  }
}

/** What a budget says of itself when it has no room. */
interface FullBudget {
  id: string
  name: string
  subject: string
  limitNanos: bigint
  spentNanos: bigint
  reservedNanos: bigint
  freesUpAt: Date | null
}

/** A call would cost more than a budget has left. It was not made. Wait until it frees up, or raise the limit. */
export class BudgetExceededError extends PlinthError {
  override readonly name = 'BudgetExceededError'
  /** What the call may cost at most, in nano-dollars. */
  readonly amountNanos: bigint
  /** All that have no room. */
  readonly blockedBy: readonly FullBudget[]
  /** When all of them may have room; null: never by themselves. */
  readonly freesUpAt: Date | null

  constructor({
    amountNanos,
    blockedBy,
    freesUpAt,
  }: Pick<BudgetExceededError, 'amountNanos' | 'blockedBy' | 'freesUpAt'>) {
    const names = blockedBy.map(
      ({ name, limitNanos, spentNanos, reservedNanos }) =>
        `${name} (${spentNanos} spent and ${reservedNanos} reserved of ${limitNanos})`,
    )
    const when = freesUpAt === null ? 'raise the limit' : `room at ${freesUpAt.toISOString()}`
    super(`${amountNanos} nano-dollars have no room in the budget ${names.join(', ')}; ${when}`)
    this.amountNanos = amountNanos
    this.blockedBy = blockedBy
    this.freesUpAt = freesUpAt
  }
}

/** A reservation that was resolved the other way, or is not held any more. Nothing was changed. */
export class ReservationError extends PlinthError {
  override readonly name = 'ReservationError'
  /** `ended`: settled, released, or its lease was over and others were granted what it held. */
  readonly reason: 'settled' | 'released' | 'ended'
  readonly reservationId: string

  constructor(reason: ReservationError['reason'], id: string, options?: ErrorOptions) {
    super(
      {
        settled: `reservation ${id} is settled already: its call is in the ledger`,
        released: `reservation ${id} was released; if its call was made after all, recordUsage it`,
        ended: `reservation ${id} is not held any more; reserve again`,
      }[reason],
      options,
    )
    this.reason = reason
    this.reservationId = id
  }
}
