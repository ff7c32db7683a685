import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { type Database, mapErrors, only, rowsOf, withSession } from '../database.ts'
import {
  ConnectionError,
  ForbiddenError,
  LockError,
  MigrationError,
  PlinthError,
  TimeoutError,
  TransactionError,
  toPlinthError,
} from '../errors.ts'
import { runDataMigration } from './data.ts'
import type { Migration, MigrationSource } from './folder.ts'
import * as ledger from './ledger.ts'
import { applySettings, settingsBefore, settingsOf } from './settings.ts'
import type { IndexTarget, Step } from './statements.ts'

export type Direction = 'up' | 'down'

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

const FIRST_PAUSE_MS = 50
const LONGEST_PAUSE_MS = 2_000
/** The least that a later statement of a step waits, when those before it took the time. */
const LEAST_WAIT = 0.2

/** Whether a statement can run outside of a transaction, beside others: not on PGlite, nor in somebody's transaction. */
export async function isConcurrent(db: Database): Promise<boolean> {
  if ('rollback' in db) return false
  const { version } = only(await rowsOf<{ version: string }>(db, sql`select version()`))
  return !version.includes('PGlite')
}

/**
 * Runs what is left of a migration, or of what undoes it. Several migrators may run it at once: they take turns, and
 * what one has done the others find done.
 *
 * @returns whether the last step was done here.
 */
export async function runMigration(
  db: Database,
  migration: Migration,
  direction: Direction,
  { lockTimeoutMs = 750, maxWaitMs = 600_000, onProgress = () => {} }: RunOptions,
  place: { step: number; steps: number },
): Promise<boolean> {
  const { name } = migration
  const say = (doing?: string) => onProgress({ name, ...place, ...(doing ? { doing } : {}) })
  const options: Settled = { lockTimeoutMs, maxWaitMs, say, source: migration.source }
  const steps = direction === 'up' ? migration.steps : (migration.down ?? [])
  say()
  const concurrent = steps.some(({ kind }) => kind === 'outside') && (await isConcurrent(db))
  const start = await inTurn(db, options, async (tx) => {
    const row = await ledger.findRow(tx, name)
    if (await isOver(tx, migration, direction)) return
    await ledger.recordStart(tx, migration, direction)
    const going = direction === 'up' ? ['running', 'failed'] : ['reverting']
    return row && going.includes(row.status) ? row.step : 0
  })
  if (start === undefined) return false
  try {
    // Nothing is left of one that has no statement, or whose last steps were taken out after they had failed.
    if (start >= steps.length) {
      return await inTurn(db, options, async (tx) =>
        (await isOver(tx, migration, direction)) ? false : end(tx, migration, direction),
      )
    }
    let isMine = false
    for (const [at, step] of steps.entries()) {
      if (at < start) continue
      if (steps.length > 1) say(`step ${at + 1} of ${steps.length}`)
      const isLast = at === steps.length - 1
      const run = { migration, direction, at, isLast }
      if (step.kind === 'data') isMine = await runDataStep(db, step.module, run, options)
      // What has no other form leaves the transaction on PGlite, too.
      else if (step.kind === 'outside' && (concurrent || !(step.plain || 'rollback' in db)))
        isMine = await runOutside(db, step, run, options)
      else isMine = await runInside(db, step, run, options)
    }
    return isMine
  } catch (error) {
    const failure = explain(error, name)
    // Where the connection is gone, the row keeps saying that it is running: the next run finds it so.
    await db
      .transaction(async (tx) => {
        // Where another migrator is at it, it has not failed.
        if (await ledger.tryLock(tx)) await ledger.recordFailure(tx, name, failure.message)
      })
      .catch(() => {})
    throw failure
  }
}

interface Run {
  migration: Migration
  direction: Direction
  at: number
  isLast: boolean
}

/** Whether somebody has done the step meanwhile. */
async function isDone(db: Database, { migration, direction, at }: Run): Promise<boolean> {
  const row = await ledger.findRow(db, migration.name)
  const going = direction === 'up' ? ['running', 'failed'] : ['reverting']
  return !row || !going.includes(row.status) || row.step > at
}

async function isOver(tx: Database, { name, source }: Migration, direction: Direction) {
  const { rows, drizzle } = await ledger.readLedger(tx, [source])
  const status = rows.get(name)?.status
  if (direction === 'up') return drizzle.has(name) && status !== 'reverting'
  return !drizzle.has(name) && status !== 'reverting'
}

async function end(tx: Database, migration: Migration, direction: Direction): Promise<boolean> {
  if (direction === 'up') await ledger.recordApplied(tx, migration)
  else await ledger.recordReverted(tx, migration)
  return true
}

async function finish(tx: Database, { migration, direction, at, isLast }: Run): Promise<true> {
  if (isLast) return (await end(tx, migration, direction)) as true
  await ledger.recordStep(tx, migration.name, at + 1)
  return true
}

/** A step in a transaction: all of it, and the record of it, or nothing. */
function runInside(db: Database, step: Step, run: Run, options: Settled): Promise<boolean> {
  const statements =
    step.kind === 'transaction'
      ? step.statements
      : step.kind === 'outside'
        ? [step.plain ?? step.statement]
        : []
  return inTurn(db, options, async (tx) => {
    if (await isDone(tx, run)) return false
    const begun = performance.now()
    let allowed = options.lockTimeoutMs
    for (const [index, statement] of statements.entries()) {
      // All waits together are bounded, since whoever waits for the first table waits for all of them.
      const left = options.lockTimeoutMs - (performance.now() - begun)
      const next = Math.ceil(Math.max(left, options.lockTimeoutMs * LEAST_WAIT))
      if (next < allowed * (1 - LEAST_WAIT)) {
        await rowsOf(tx, sql`select set_config('lock_timeout', ${`${next}ms`}, true)`)
        allowed = next
      }
      const place = placeOf(
        run,
        statements.length > 1 ? `statement ${index + 1} of ${statements.length}` : '',
      )
      await located(place, () => mapErrors(() => tx.execute(sql.raw(statement))))
    }
    return finish(tx, run)
  })
}

/** A failure in a statement, and which one it was. */
class StatementError extends Error {
  readonly place: string

  constructor(place: string, cause: unknown) {
    super(place, { cause })
    this.place = place
  }
}

/** Which statement it is, as far as there are several. */
function placeOf({ migration, direction, at }: Run, statement: string): string {
  const { length } = direction === 'up' ? migration.steps : (migration.down ?? [])
  const step = length > 1 ? `step ${at + 1} of ${length}` : ''
  return [step, statement].filter(Boolean).join(', ')
}

async function located<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof LockError) throw error
    throw new StatementError(place, error)
  }
}

/** What a person needs to find the statement, in an error of the class that a program looks for. */
function explain(error: unknown, name: string): Error {
  const place = error instanceof StatementError && error.place ? `${error.place}: ` : ''
  const cause = toPlinthError(error instanceof StatementError ? error.cause : error)
  const message = `${name} failed: ${place}${messageOf(cause)}`
  if (cause instanceof ForbiddenError) return new ForbiddenError(cause.reason, message, { cause })
  if (cause instanceof ConnectionError) return cause
  if (cause instanceof LockError || cause instanceof TimeoutError) return cause
  if (cause instanceof TransactionError || cause instanceof MigrationError) {
    return new MigrationError(message, { cause })
  }
  if (cause instanceof PlinthError)
    return new MigrationError(message, { cause: cause.cause ?? cause })
  return new MigrationError(message, { cause })
}

/** What the server said: Drizzle's own message is the whole statement. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const isFinal = error instanceof MigrationError || !(error.cause instanceof Error)
  return isFinal ? error.message : messageOf(error.cause)
}

const isLockError = (error: unknown): error is LockError => error instanceof LockError

const asLockError = (error: unknown): LockError | undefined => {
  const inner = toPlinthError(error instanceof StatementError ? error.cause : error)
  return isLockError(inner) ? inner : undefined
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
async function retry<T>(
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

/** A step outside of a transaction: what it left half done is cleared first, and what it has done is kept. */
function runOutside(
  db: Database,
  { statement, target }: Extract<Step, { kind: 'outside' }>,
  run: Run,
  options: Settled,
): Promise<boolean> {
  const { name } = run.migration
  return withSession(db, (session) =>
    retry(options.maxWaitMs, options.say, async () => {
      if (!(await ledger.trySessionLock(session))) return
      try {
        if (await isDone(session, run)) return { value: false }
        // Waiting, it keeps nobody waiting who reads or writes.
        await applySettings(session, settingsOf(0, run.migration.source), false)
        const row = await ledger.findRow(session, name)
        if (!row?.isStarted) await ledger.recordStepStarted(session, name)
        if (!row?.isStarted || !(await clearHalfDone(session, target, options))) {
          await located(placeOf(run, ''), () =>
            mapErrors(() => session.execute(sql.raw(statement))),
          ).catch(async (error) => {
            // An index that could not be built is of no use, and slows every write. With nothing of the
            // step left, its text may be mended.
            await clearHalfDone(session, target, options)
              .then(() => ledger.recordStep(session, name, run.at))
              .catch(() => {})
            throw error
          })
        }
        return { value: await session.transaction((tx) => finish(tx, run)) }
      } finally {
        await ledger.releaseSessionLock(session).catch(() => {})
      }
    }),
  )
}

/** Drops an index that is not valid. Returns whether the statement has been done already. */
async function clearHalfDone(
  session: Database,
  target: IndexTarget | undefined,
  { say }: Settled,
): Promise<boolean> {
  if (!target) {
    await dropInvalid(session, sql`c.relname ~ '_cc(new|old)[0-9]*$'`)
    return false
  }
  for (;;) {
    const [index] = await rowsOf<{ isValid: boolean; isBuilding: boolean }>(
      session,
      sql`select i.indisvalid as "isValid", exists (
          select from pg_catalog.pg_stat_progress_create_index p where p.index_relid = i.indexrelid) as "isBuilding"
        from pg_catalog.pg_index i where i.indexrelid = to_regclass(${target.index})`,
    )
    if (target.kind === 'drop') return index === undefined
    if (!index || index.isValid) return index !== undefined
    if (!index.isBuilding) {
      await dropInvalid(session, sql`i.indexrelid = to_regclass(${target.index})`)
      return false
    }
    // Of a migrator whose connection is gone: the server may finish what it was told.
    say('waits for an index that the server is still building')
    await pause(LONGEST_PAUSE_MS)
  }
}

async function dropInvalid(session: Database, which: ReturnType<typeof sql>) {
  const found = await rowsOf<{ name: string }>(
    session,
    sql`select i.indexrelid::regclass::text as name from pg_catalog.pg_index i
      join pg_catalog.pg_class c on c.oid = i.indexrelid where not i.indisvalid and c.relkind = 'i' and ${which}`,
  )
  for (const { name } of found) {
    await mapErrors(() => session.execute(sql.raw(`drop index concurrently if exists ${name}`)))
  }
}

/** The batches of a data migration: each in a transaction of its own, with how far they have come. */
function runDataStep(db: Database, module: string, run: Run, options: Settled): Promise<boolean> {
  const { migration, direction } = run
  return runDataMigration(db, module, {
    name: migration.name,
    direction,
    isDone: (tx) => isDone(tx, run),
    finish: (tx) => finish(tx, run),
    inTurn: (work) => inTurn(db, options, work),
    say: options.say,
  })
}
