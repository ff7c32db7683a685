import { setTimeout as pause } from 'node:timers/promises'
import { is } from 'drizzle-orm'
import { PgAsyncTransaction } from 'drizzle-orm/pg-core'
import type { Database } from '../database.ts'

/** Shorter, a lease would end between two heartbeats; longer, a holder's death would keep everybody out for days. */
export const LEASE_BOUNDS = { min: 100, max: 86_400_000 }

/** The longest that a call waits for another one. */
export const MAX_WAIT_MS = 86_400_000

/** The first pause between two attempts, and the longest, in milliseconds. */
const PAUSES = { first: 20, longest: 500 }

/** Whether statements on it are in a transaction already, whose end nobody here can await. */
export const isTransaction = (db: Database): boolean => is(db, PgAsyncTransaction)

/**
 * Asks again until an answer is final, with growing pauses, for at most `waitMs`. Returns the last answer. Between the
 * attempts it holds no connection.
 */
export async function askUntil<T>(
  waitMs: number,
  isFinal: (answer: T) => boolean,
  ask: () => Promise<T>,
): Promise<T> {
  const end = performance.now() + waitMs
  for (let longest = PAUSES.first; ; longest = Math.min(longest * 2, PAUSES.longest)) {
    const answer = await ask()
    const left = end - performance.now()
    if (isFinal(answer) || left <= 0) return answer
    // Spread out, so that those who were refused together do not come back together.
    await pause(Math.min(left, longest * (0.5 + Math.random() / 2)))
  }
}

export interface KeepLeaseOptions {
  /** Where the lease is. In a transaction it is not extended: nobody else sees it before the end. */
  db: Database
  leaseMs: number
  /** When the lease was asked for at the latest, by `performance.now()`. */
  since: number
  /** False when the lease is lost. What it throws is tried again, as long as the lease goes on. */
  extend(): Promise<boolean>
  /** The reason of the signal. */
  lost(): Error
}

/** Extends a lease three times in its length until it is stopped. The signal aborts as soon as it may be lost. */
export function keepLease({ db, leaseMs, since, extend, lost }: KeepLeaseOptions): {
  signal: AbortSignal
  /** Waits for an extension that is under way. */
  stop(): Promise<void>
} {
  const controller = new AbortController()
  if (isTransaction(db)) return { signal: controller.signal, stop: async () => {} }
  let extending: Promise<void> | undefined
  let stopped = false
  const lose = () => {
    stopTimers()
    controller.abort(lost())
  }
  const expireAfter = (ms: number) => setTimeout(lose, Math.max(ms, 0)).unref()
  let expiry = expireAfter(since + leaseMs - performance.now())

  async function beat() {
    const asked = performance.now()
    try {
      if (!(await extend())) return lose()
    } catch {
      // The database may be back in time.
      return
    }
    if (stopped) return
    clearTimeout(expiry)
    expiry = expireAfter(asked + leaseMs - performance.now())
  }

  const heart = setInterval(() => {
    extending ??= beat().finally(() => {
      extending = undefined
    })
  }, leaseMs / 3).unref()

  function stopTimers() {
    stopped = true
    clearInterval(heart)
    clearTimeout(expiry)
  }
  return {
    signal: controller.signal,
    stop: async () => {
      stopTimers()
      await extending
    },
  }
}
