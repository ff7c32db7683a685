import { sql } from 'drizzle-orm'
import { type Database, mapErrors, only, rowsOf } from '../database.ts'
import { MigrationError } from '../errors.ts'
import { begin, isDone, OvertakenError, type Passage } from './course.ts'
import { runDataMigration } from './data.ts'
import type { Migration } from './folder.ts'
import * as ledger from './ledger.ts'
import { runOutside } from './outside.ts'
import type { Step } from './statements.ts'
import { explain, inTurn, located, type RunOptions, type Settled, settle } from './turns.ts'

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
  passage: Passage,
  { onProgress = () => {}, ...limits }: RunOptions,
  place: { step: number; steps: number },
): Promise<boolean> {
  const { migration, direction } = passage
  const { name } = migration
  const say = (doing?: string) => onProgress({ name, ...place, ...(doing ? { doing } : {}) })
  const options = settle(limits, migration.source, say)
  const steps = direction === 'up' ? migration.steps : (migration.down ?? [])
  for (const step of steps) {
    if (step.kind === 'transaction' && step.refusal) {
      throw new MigrationError(`${name} cannot run: ${step.refusal}`)
    }
  }
  say()
  const concurrent = steps.some(({ kind }) => kind === 'outside') && (await isConcurrent(db))
  const start = await inTurn(db, options, (tx) => begin(tx, passage))
  if (start === undefined) return false
  try {
    // Nothing is left of one that has no statement, or whose last steps were taken out after they had failed.
    if (start >= steps.length) {
      return await inTurn(db, options, async (tx) =>
        (await isDone(tx, passage, start)) ? false : end(tx, migration, direction),
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
        isMine = await runOutside(db, step, turnOf(run), options)
      else isMine = await runInside(db, step, run, options)
    }
    return isMine
  } catch (error) {
    if (error instanceof OvertakenError) throw error
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
  direction: ledger.Direction
  at: number
  isLast: boolean
}

async function end(tx: Database, migration: Migration, direction: ledger.Direction): Promise<true> {
  if (direction === 'up') await ledger.recordApplied(tx, migration)
  else await ledger.recordReverted(tx, migration)
  return true
}

async function finish(tx: Database, { migration, direction, at, isLast }: Run): Promise<true> {
  if (isLast) return end(tx, migration, direction)
  await ledger.recordStep(tx, migration.name, at + 1)
  return true
}

/** Which statement it is, as far as there are several. */
function placeOf({ migration, direction, at }: Run, statement: string): string {
  const { length } = direction === 'up' ? migration.steps : (migration.down ?? [])
  const step = length > 1 ? `step ${at + 1} of ${length}` : ''
  return [step, statement].filter(Boolean).join(', ')
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
    if (await isDone(tx, run, run.at)) return false
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

/** The batches of a data migration: each in a transaction of its own, with how far they have come. */
function runDataStep(db: Database, module: string, run: Run, options: Settled): Promise<boolean> {
  return runDataMigration(module, {
    ...turnOf(run),
    direction: run.direction,
    inTurn: (work) => inTurn(db, options, work),
    say: options.say,
  })
}

/** What a step that has transactions of its own needs to know of the rest. */
const turnOf = (run: Run) => ({
  name: run.migration.name,
  at: run.at,
  place: placeOf(run, ''),
  isDone: (tx: Database) => isDone(tx, run, run.at),
  finish: (tx: Database) => finish(tx, run),
})
