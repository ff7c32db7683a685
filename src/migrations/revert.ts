import type { Database } from '../database.ts'
import { DataLossError, MigrationError } from '../errors.ts'
import { checkInteger } from '../validation.ts'
import { countLosses, type Loss, lossesOf } from './advice/losses.ts'
import { migrate, prepare } from './apply.ts'
import { findMigration, type Migration, plinthSource } from './folder.ts'
import { isConcurrent, runMigration } from './run.ts'
import { type PlannedMigration, planMigrate, scriptOf } from './script.ts'
import {
  acceptedNames,
  checkStates,
  type MigrationStatus,
  type MigrationsOptions,
  readStatuses,
} from './status.ts'
import { type RunOptions, settle } from './turns.ts'

export interface RevertOptions extends MigrationsOptions, RunOptions {
  /** How many, from the last one; 1 unless said. */
  count?: number
  /** The last one that stays, as in `migrate`; `nothing` for none. In place of `count`. */
  to?: string
  /** Reverts although rows or values would be lost. */
  allowDataLoss?: boolean
  /** Names of migrations whose state would stop the run, and may not, as in `migrate`. */
  accept?: readonly string[]
}

/** What `to` is called when no migration stays. */
const NOTHING = 'nothing'

/** Something that would be lost, such as `column app.posts.title`, and how many rows or values of it there are. */
interface RevertLoss {
  name: string
  rows: number
}

export interface PlannedRevert {
  /** In the order in which they are reverted. */
  migrations: PlannedMigration[]
  /** What would be lost, with how many rows; only what has any. */
  losses: RevertLoss[]
}

/**
 * What `revert` would run with the same options, and what would be lost. Changes nothing.
 *
 * @throws {MigrationError} as `revert` does, but for data that would be lost.
 */
export async function planRevert(
  db: Database,
  options: RevertOptions = {},
): Promise<PlannedRevert> {
  const { left } = await revertible(db, options)
  const concurrent = await isConcurrent(db)
  return {
    migrations: left.map(({ name, source, down = [] }) => ({
      name,
      direction: 'down',
      script: scriptOf(down, settle(options, source), concurrent),
    })),
    losses: await lossesOfAll(db, left),
  }
}

/**
 * Takes migrations back, the last one first, each by its down.sql: whole or not at all, and gone on with where it
 * stopped if it has several steps.
 *
 * @returns the names of those that were reverted here, in that order.
 * @throws {DataLossError} if rows or values would be lost, unless `allowDataLoss`; before anything is reverted.
 * @throws {MigrationError} for one without a down.sql, and for one that fails. @throws {MigrationStateError} if one was
 * edited, renamed or removed.
 */
export async function revert(db: Database, options: RevertOptions = {}): Promise<string[]> {
  const { due, left, migrations, statuses, accept } = await revertible(db, options)
  if (!options.allowDataLoss) {
    const losses = await lossesOfAll(db, left)
    if (losses.length > 0) throw new DataLossError(losses)
  }
  if (due.length === 0) return []
  await prepare(db, { ...options, accept }, migrations, statuses)
  const reverted: string[] = []
  for (const [at, migration] of due.entries()) {
    const place = { step: at + 1, steps: due.length }
    const passage = { migration, migrations, direction: 'down' as const }
    if (await runMigration(db, passage, options, place)) reverted.push(migration.name)
  }
  return reverted
}

/**
 * Brings the database to one migration, forwards or backwards.
 *
 * @returns the names of those that were reverted, and of those that were applied.
 * @throws what `migrate` and `revert` throw.
 */
export async function migrateTo(
  db: Database,
  to: string,
  options: Omit<RevertOptions, 'count' | 'to'> = {},
): Promise<{ reverted: string[]; applied: string[] }> {
  if (to === NOTHING) return { reverted: await revert(db, { ...options, to }), applied: [] }
  await checkWayUp(db, to, options)
  const reverted = await revert(db, { ...options, to })
  return { reverted, applied: await migrate(db, { ...options, to }) }
}

/**
 * What `migrateTo` would run with the same options, and what would be lost. Changes nothing.
 *
 * @throws what `migrateTo` does, but for data that would be lost.
 */
export async function planTo(
  db: Database,
  to: string,
  options: Omit<RevertOptions, 'count' | 'to'> = {},
): Promise<PlannedRevert> {
  const down = await planRevert(db, { ...options, to })
  if (to === NOTHING) return down
  // The late ones that come after it are none of this.
  const late = await checkWayUp(db, to, options)
  const up = await planMigrate(db, { ...options, to, accept: [...(options.accept ?? []), ...late] })
  return { ...down, migrations: [...down.migrations, ...up] }
}

/** Refuses what would stop the way up, before the way down. Returns the names of all that are late. */
async function checkWayUp(
  db: Database,
  to: string,
  options: Omit<RevertOptions, 'count' | 'to'>,
): Promise<string[]> {
  const { migrations, statuses, accept } = await revertible(db, { ...options, to })
  const last = migrations.indexOf(findMigration(migrations, to))
  const staying = new Set(migrations.slice(0, last + 1).map(({ name }) => name))
  const late = statuses.filter(({ state }) => state === 'late')
  checkStates(
    late.filter(({ name }) => staying.has(name)),
    accept,
  )
  return late.map(({ name }) => name)
}

interface Revertible {
  /** What is to be reverted, the last one first. */
  due: Migration[]
  /** The same, without the steps that are done. */
  left: Migration[]
  migrations: Migration[]
  statuses: MigrationStatus[]
  /** The full names. */
  accept: string[]
}

async function revertible(db: Database, options: RevertOptions): Promise<Revertible> {
  const { sources = [plinthSource], count = 1, to } = options
  checkInteger('count', count, { min: 1, max: 100_000 })
  const { migrations, statuses } = await readStatuses(db, sources)
  const accept = acceptedNames(statuses, options.accept)
  checkStates(
    statuses.filter(({ state }) => state !== 'late' && state !== 'reverting'),
    accept,
  )
  const half = statuses.find(
    ({ state, step, isStarted, checksum }) =>
      (state === 'failed' && (step > 0 || isStarted)) ||
      (state === 'edited' && checksum === undefined),
  )
  if (half) {
    throw new MigrationError(`${half.name} is half applied: finish it first with plinth migrate up`)
  }
  const states = new Map(statuses.map((status) => [status.name, status]))
  const applied = migrations.filter(({ name }) => {
    // Edited and renamed ones are accepted, or would have been refused.
    return ['applied', 'reverting', 'edited', 'renamed'].includes(states.get(name)?.state ?? '')
  })
  const keeps = to === undefined || to === NOTHING ? undefined : findMigration(migrations, to)
  const from = keeps ? migrations.indexOf(keeps) + 1 : 0
  const due =
    to === undefined
      ? applied.slice(-count)
      : applied.filter((migration) => migrations.indexOf(migration) >= from)
  const fixed = due.filter(({ down }) => down === undefined)
  if (fixed.length > 0) {
    const names = fixed.map(({ name }) => name).join(', ')
    throw new MigrationError(
      `${names} cannot be reverted: write what undoes it into a down.sql beside its migration.sql`,
    )
  }
  due.reverse()
  const left = due.map((migration) => {
    const status = states.get(migration.name)
    return status?.state === 'reverting'
      ? { ...migration, down: migration.down?.slice(status.step) }
      : migration
  })
  return { due, left, migrations, statuses, accept }
}

async function lossesOfAll(db: Database, due: readonly Migration[]): Promise<RevertLoss[]> {
  const statements = due.flatMap(({ down = [] }) =>
    down.flatMap((step) =>
      step.kind === 'transaction'
        ? step.statements
        : step.kind === 'outside'
          ? [step.statement]
          : [],
    ),
  )
  const lost = await lossesOf(statements)
  // What a materialized view holds can be computed again.
  const counted = await countLosses(
    db,
    lost.filter(({ kind }) => kind !== 'materialized view'),
  )
  const losses = new Map<string, number>()
  // Two statements may take from one table; the one that takes nothing hides nothing.
  for (const loss of counted) {
    const title = titleOf(loss)
    losses.set(title, Math.max(losses.get(title) ?? 0, loss.count))
  }
  return [...losses].flatMap(([name, rows]) => (rows > 0 ? [{ name, rows }] : []))
}

const titleOf = ({ kind, schema, table, name, column }: Loss): string =>
  [kind, [schema, ...(column ? [table, column] : [name])].filter(Boolean).join('.')].join(' ')
