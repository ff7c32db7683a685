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
