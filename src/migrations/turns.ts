import { setTimeout as pause } from 'node:timers/promises'
import { type Database, mapErrors } from '../database.ts'
import { toPlinthError } from '../driver-errors.ts'
import {
  ConnectionError,
  ForbiddenError,
  LockError,
  MigrationError,
  TimeoutError,
} from '../errors.ts'
import type { MigrationSource } from './folder.ts'
import * as ledger from './ledger.ts'
import { applySettings, settingsBefore, settingsOf } from './settings.ts'

export interface MigrationProgress {
  name: string
  /** From 1. */
  step: number
  /** How many migrations there are in this run. */
  steps: number
  /** What is going on in it: a wait, a step of several, the rows of a data migration. */
  doing?: string
}

export interface RunOptions {
  /**
   * How long a statement waits for a table, in milliseconds, before the step is undone and tried again: as long as
   * that, those behind it wait as well. Shorter than deadlock_timeout (1 s), so that it is never they who fail.
   */
  lockTimeoutMs?: number
  /** How long a migration goes on trying, for tables and for other migrators, in milliseconds. */
  maxWaitMs?: number
  /** Called before each migration, and while one is under way. */
  onProgress?: (progress: MigrationProgress) => void
}

export type Settled = Required<Omit<RunOptions, 'onProgress'>> & {
  say: (doing: string) => void
  source: Pick<MigrationSource, 'searchPath'>
}

const LOCK_TIMEOUT_MS = 750
const MAX_WAIT_MS = 600_000

/** The options of a run, with what was not said. */
export const settle = (
  { lockTimeoutMs = LOCK_TIMEOUT_MS, maxWaitMs = MAX_WAIT_MS }: RunOptions,
  source: Settled['source'],
  say: Settled['say'] = () => {},
): Settled => ({ lockTimeoutMs, maxWaitMs, source, say })

const FIRST_PAUSE_MS = 50
const LONGEST_PAUSE_MS = 2_000

/** A failure in a statement, and which one it was. */
class StatementError extends Error {
  readonly place: string

  constructor(place: string, cause: unknown) {
    super(place, { cause })
    this.place = place
  }
}

/** Runs a statement, and says of a failure where it is. A table that is locked is no failure. */
export async function located<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof LockError) throw error
    throw new StatementError(place, error)
  }
}

/** What a person needs to find the statement, in an error of the class that a program looks for. */
export function explain(error: unknown, name: string): Error {
  const place = error instanceof StatementError && error.place ? `${error.place}: ` : ''
  const cause = toPlinthError(error instanceof StatementError ? error.cause : error)
  const message = `${name} failed: ${place}${messageOf(cause)}`
  if (cause instanceof ForbiddenError) return new ForbiddenError(cause.reason, message, { cause })
  // These say it themselves, and are no failure of the statement.
  const isOutside = [ConnectionError, LockError, TimeoutError].some((it) => cause instanceof it)
  return isOutside ? (cause as Error) : new MigrationError(message, { cause })
}

/** What the server said: Drizzle's own message is the whole statement. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const isFinal = error instanceof MigrationError || !(error.cause instanceof Error)
  return isFinal ? error.message : messageOf(error.cause)
}

const asLockError = (error: unknown): LockError | undefined => {
  const inner = toPlinthError(error instanceof StatementError ? error.cause : error)
  return inner instanceof LockError ? inner : undefined
}

/**
 * Runs `work` in a transaction that has the migrators' lock, again and again until no other has it and no table is
 * locked. The lock is polled: a statement that waited for it would keep CREATE INDEX CONCURRENTLY waiting.
 */
export async function inTurn<T>(
  db: Database,
  { lockTimeoutMs, maxWaitMs, say, source }: Settled,
  work: (tx: Database) => Promise<T>,
): Promise<T> {
  return retry(maxWaitMs, say, async () => {
    let result: { value: T } | undefined
    const isOurs = await mapErrors(() =>
      db.transaction(async (tx) => {
        if (!(await ledger.tryLock(tx))) return false
        const settings = settingsOf(lockTimeoutMs, source)
        // What is local outlives a savepoint, and would be the rest of the caller's transaction.
        const before = 'rollback' in db ? await settingsBefore(tx, settings) : {}
        await applySettings(tx, settings, true)
        result = { value: await work(tx) }
        if ('rollback' in db) await applySettings(tx, before, true)
        return true
      }),
    )
    return isOurs ? result : undefined
  })
}

/** Tries until there is a result: nothing means that another migrator is at work. */
export async function retry<T>(
  maxWaitMs: number,
  say: (doing: string) => void,
  attempt: () => Promise<{ value: T } | undefined>,
): Promise<T> {
  const deadline = performance.now() + maxWaitMs
  for (let tries = 0; ; tries += 1) {
    let locked: LockError | undefined
    try {
      const result = await attempt()
      if (result) return result.value
    } catch (error) {
      locked = asLockError(error)
      if (!locked) throw error
    }
    if (performance.now() > deadline) {
      throw (
        locked ??
        new LockError('not_available', { cause: new Error('another migrator is at work') })
      )
    }
    say(locked ? `waits for a lock (attempt ${tries + 2})` : 'waits for another migrator')
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** Math.min(tries, 10), LONGEST_PAUSE_MS)
    await pause(longest * (0.5 + Math.random() / 2))
  }
}
