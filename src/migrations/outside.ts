import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { type Database, mapErrors, only, rowsOf, withSession } from '../database.ts'
import { MigrationError } from '../errors.ts'
import * as ledger from './ledger.ts'
import { applySettings, settingsOf } from './settings.ts'
import type { Step, Target } from './statements.ts'
import { located, retry, type Settled } from './turns.ts'

/** The step, and what the migration that it belongs to makes of it. */
export interface OutsideStep {
  name: string
  at: number
  /** Where it is, for a message. */
  place: string
  isDone(db: Database): Promise<boolean>
  finish(tx: Database): Promise<true>
}

const LONGEST_PAUSE_MS = 2_000
const WATCH_MS = 1_000

/**
 * Runs a step outside of a transaction: what it left half done is cleared first, and what it has done is kept.
 *
 * @returns whether it was done here.
 * @throws {MigrationError} behind a pooler that does not keep a session, and for an index without a name.
 */
export function runOutside(
  db: Database,
  { statement, target }: Extract<Step, { kind: 'outside' }>,
  step: OutsideStep,
  options: Settled,
): Promise<boolean> {
  const { name, at, place } = step
  if (target && 'index' in target && target.index === '') {
    const problem = 'name the index, so that it is found again after an interruption'
    throw new MigrationError([place, problem].filter(Boolean).join(': '))
  }
  return withSession(db, (session) =>
    retry(options.maxWaitMs, options.say, async () => {
      if (!(await ledger.trySessionLock(session))) return
      try {
        await checkSession(session)
        if (await step.isDone(session)) return { value: false }
        // Waiting, it keeps nobody waiting who reads or writes.
        await applySettings(session, settingsOf(0, options.source), false)
        const row = await ledger.findRow(session, name)
        // One that is not valid is in the way of another: IF NOT EXISTS would be content with it.
        const isThere =
          (row?.isStarted || target?.kind === 'create') &&
          (await clearHalfDone(session, target, options))
        if (!row?.isStarted) await ledger.recordStepStarted(session, name)
        if (!row?.isStarted || !isThere) {
          const stop = await watch(db, session, options)
          await located(place, () => mapErrors(() => session.execute(sql.raw(statement))))
            .catch(async (error) => {
              // With nothing of the step left, its text may be mended.
              await undo(session, target, options)
                .then((isUndone) => (isUndone ? ledger.recordStep(session, name, at) : undefined))
                .catch(() => {})
              throw error
            })
            .finally(stop)
        }
        return { value: await session.transaction((tx) => step.finish(tx)) }
      } finally {
        await ledger.releaseSessionLock(session).catch(() => {})
      }
    }),
  )
}

/** A pooler in transaction mode hands the next statement to another session, and leaves the lock with the first. */
async function checkSession(session: Database): Promise<void> {
  if (await ledger.hasSessionLock(session)) return
  throw new MigrationError(
    'a step outside of a transaction needs a connection to the server itself; this one goes through a pooler',
  )
}

/** Says how far an index is, once a second, over another connection. Returns what ends that. */
async function watch(db: Database, session: Database, { say }: Settled): Promise<() => void> {
  const { pid } = only(await rowsOf<{ pid: number }>(session, sql`select pg_backend_pid() as pid`))
  let isAsking = false
  const timer = setInterval(() => {
    if (isAsking) return
    isAsking = true
    const asked = rowsOf<{ phase: string; done: number | null }>(
      db,
      sql`select phase, floor(100.0 * blocks_done / nullif(blocks_total, 0))::int as done
        from pg_catalog.pg_stat_progress_create_index where pid = ${pid}`,
    )
    // Where the pool has no second connection, nothing is said.
    asked
      .then(
        ([index]) => index && say(`${index.phase}${index.done === null ? '' : `, ${index.done}%`}`),
      )
      .catch(() => {})
      .finally(() => {
        isAsking = false
      })
  }, WATCH_MS)
  return () => clearInterval(timer)
}

/** Ends what was left half done, or undoes it. Returns whether the statement has been done already. */
async function clearHalfDone(
  session: Database,
  target: Target | undefined,
  { say }: Settled,
): Promise<boolean> {
  if (!target) {
    await dropInvalid(session, sql`c.relname ~ '_cc(new|old)[0-9]*$'`)
    return false
  }
  if (target.kind === 'detach') return endDetaching(session, target)
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

/** After a failure. Returns whether nothing of the step is left. */
async function undo(
  session: Database,
  target: Target | undefined,
  options: Settled,
): Promise<boolean> {
  if (target?.kind === 'detach') return !(await linkOf(session, target))?.isPending
  // An index that could not be built is of no use, and slows every write.
  await clearHalfDone(session, target, options)
  return true
}

type Detaching = Extract<Target, { kind: 'detach' }>

/** Postgres detaches in two transactions, and after the first one there is no way back. */
async function endDetaching(session: Database, target: Detaching): Promise<boolean> {
  const { table, partition } = target
  const link = await linkOf(session, target)
  if (link?.isPending) {
    await mapErrors(() =>
      session.execute(sql.raw(`alter table ${table} detach partition ${partition} finalize`)),
    )
  }
  return !link || link.isPending
}

async function linkOf(session: Database, { table, partition }: Detaching) {
  const [link] = await rowsOf<{ isPending: boolean }>(
    session,
    sql`select inhdetachpending as "isPending" from pg_catalog.pg_inherits
      where inhrelid = to_regclass(${partition}) and inhparent = to_regclass(${table})`,
  )
  return link
}
