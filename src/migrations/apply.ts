import type { Database } from '../database.ts'
import { MigrationError } from '../errors.ts'
import { findMigration, type Migration, plinthSource } from './folder.ts'
import * as ledger from './ledger.ts'
import { runMigration } from './run.ts'
import {
  acceptedNames,
  checkStates,
  type MigrationStatus,
  type MigrationsOptions,
  readStatuses,
} from './status.ts'
import { inTurn, type RunOptions, settle } from './turns.ts'

export interface MigrateOptions extends MigrationsOptions, RunOptions {
  /** The last one to apply: its name, the beginning of it, or its place in the list from 1. */
  to?: string
  /**
   * Migrations, named as in `to`, whose state would stop the run, and may not: a late one is applied, an edited text is taken for
   * the applied one, a new name is recorded, a missing one is forgotten.
   */
  accept?: readonly string[]
}

/**
 * Applies the migrations that the database does not have yet: plinth's own unless `sources` says more. Each is applied
 * whole or not at all; one that has a step outside of a transaction is gone on with where it stopped. Several callers at
 * once take turns. They are recorded in drizzle's own table, as `drizzle-kit migrate` records them, and beside it with
 * who, when and how long.
 *
 * Needs the rights of an owner: see docs/production.md.
 *
 * @returns the names of those that were applied here, in that order; none if the database is up to date.
 * @throws {MigrationStateError} if a migration was edited, renamed, removed or merged late, and `accept` does not name it;
 * before anything is applied. @throws {MigrationError} for one that fails; {ForbiddenError} without the rights; {LockError}
 * after `maxWaitMs` of waiting.
 */
export async function migrate(db: Database, options: MigrateOptions = {}): Promise<string[]> {
  const { sources = [plinthSource] } = options
  const { migrations, ledger: found, statuses } = await readStatuses(db, sources)
  const accept = acceptedNames(statuses, options.accept)
  checkStates(statuses, accept)
  const due = dueOf(migrations, statuses, options)
  const isRecorded = migrations.every((migration) => !missingOf(migration, found))
  if (due.length === 0 && accept.length === 0 && isRecorded) return []
  await prepare(db, { ...options, accept }, migrations, statuses)

  const applied: string[] = []
  for (const [at, migration] of due.entries()) {
    const place = { step: at + 1, steps: due.length }
    const passage = { migration, migrations, direction: 'up' as const }
    const isMine = await runMigration(db, passage, options, place)
    if (isMine) applied.push(migration.name)
  }
  return applied
}

/** Those that are to be applied, up to `to`. */
export function dueOf(
  migrations: readonly Migration[],
  statuses: readonly MigrationStatus[],
  { to }: MigrateOptions,
): Migration[] {
  const last = to === undefined ? undefined : findMigration(migrations, to)
  const until = last ? migrations.indexOf(last) + 1 : migrations.length
  const states = new Map(statuses.map(({ name, state }) => [name, state]))
  return migrations
    .slice(0, until)
    .filter(({ name }) => ['pending', 'late', 'running', 'failed'].includes(states.get(name) ?? ''))
}

/** The tables of the record, what drizzle-kit has applied in it, and what was accepted. */
export async function prepare(
  db: Database,
  options: Omit<MigrateOptions, 'to'>,
  migrations: readonly Migration[],
  statuses: readonly MigrationStatus[],
): Promise<void> {
  const { sources = [plinthSource] } = options
  const accepted = statuses.filter(({ name }) => options.accept?.includes(name))
  await inTurn(db, settle(options, plinthSource), async (tx) => {
    await ledger.ensureLedger(tx, sources)
    const { rows, drizzle } = await ledger.readLedger(tx, sources)
    for (const migration of migrations) {
      const missing = missingOf(migration, { rows, drizzle })
      if (missing === 'ledger') {
        const appliedAt = drizzle.get(migration.name)?.appliedAt ?? null
        await ledger.recordKnown(tx, { ...ledger.appliedRow(migration), appliedAt })
      }
      if (missing === 'drizzle') await ledger.recordInDrizzle(tx, migration)
    }
    for (const status of accepted) await accept(tx, status, migrations, drizzle)
  })
}

/** In which of the two records an applied migration is missing. */
function missingOf(
  { name, checksum }: Migration,
  { rows, drizzle }: Pick<ledger.Ledger, 'rows' | 'drizzle'>,
): 'ledger' | 'drizzle' | undefined {
  const record = drizzle.get(name)
  const status = rows.get(name)?.status
  if (!record) return status === 'applied' ? 'drizzle' : undefined
  const isKnown = status === 'applied' || status === 'reverting'
  return record.checksum === checksum && !isKnown ? 'ledger' : undefined
}

async function accept(
  tx: Database,
  { name, source, state, previousName }: MigrationStatus,
  migrations: readonly Migration[],
  drizzle: ReadonlyMap<string, ledger.DrizzleRow>,
) {
  const migration = migrations.find((one) => one.name === name)
  if (state === 'edited' && migration) {
    if (!drizzle.has(name)) {
      throw new MigrationError(
        `${name} is half applied with another text; put that text back, and finish or revert it`,
      )
    }
    await ledger.recordKnown(tx, ledger.appliedRow(migration))
    await ledger.recordEdit(tx, migration)
  }
  if (state === 'renamed' && migration && previousName) {
    await ledger.recordRename(tx, previousName, migration)
  }
  if (state === 'missing' || state === 'newer') {
    const checksum = drizzle.get(name)?.checksum ?? ''
    await ledger.recordKnown(tx, { name, source, checksum, status: 'retired' })
  }
}
