import type { Database } from '../database.ts'
import { MigrationError } from '../errors.ts'
import type { Migration } from './folder.ts'
import * as ledger from './ledger.ts'

/** A migration, which way it goes, and all that it is one of, in their order. */
export interface Passage {
  migration: Migration
  direction: ledger.Direction
  migrations: readonly Migration[]
}

/** Another migrator has gone the other way: nothing failed here, and its record is its own. */
export class OvertakenError extends MigrationError {
  constructor(name: string, how: string) {
    super(
      `${name} was not gone on with: meanwhile another migrator has left ${how}; see plinth migrate status, and run it again`,
    )
  }
}

/** What a migration is called in the ledger while it goes a way. */
const GOING: Record<ledger.Direction, readonly ledger.Stage['status'][]> = {
  up: ['running', 'failed'],
  down: ['reverting'],
}

const isHalfDone = ({ status, step, isStarted }: ledger.Stage) =>
  ['running', 'failed', 'reverting'].includes(status) && (step > 0 || isStarted)

/**
 * Begins a migration, or goes on with it, in a transaction that has the migrators' lock. What was read before it got
 * the lock may be true no more: those before it must be applied, and to go down, those behind it must not be.
 *
 * @returns how many of its steps are done; undefined if all are.
 * @throws {OvertakenError} where the order would be broken.
 */
export async function begin(
  tx: Database,
  { migration, direction, migrations }: Passage,
): Promise<number | undefined> {
  const { stages, recorded } = await ledger.readStages(tx, migrations)
  const own = stages.get(migration.name)
  const isRecorded = recorded.has(migration.name)
  const isOther = own && (own.status !== 'reverting') === (direction === 'down') && isHalfDone(own)
  if (isOther) throw new OvertakenError(migration.name, 'it half done')
  // What is being taken back is not for `up` to go on with.
  if (direction === 'up' && (isRecorded || own?.status === 'reverting')) return
  if (direction === 'down' && !isRecorded && own?.status !== 'reverting') return

  const place = migrations.indexOf(migration)
  for (const [at, { name }] of migrations.entries()) {
    const stage = stages.get(name)
    const isReverted = stage?.status === 'reverting' && isHalfDone(stage)
    if (direction === 'up' && at < place && (isReverted || !recorded.has(name))) {
      throw new OvertakenError(migration.name, `${name} before it not applied`)
    }
    if (
      direction === 'down' &&
      at > place &&
      (recorded.has(name) || (stage && isHalfDone(stage)))
    ) {
      throw new OvertakenError(migration.name, `${name} behind it applied`)
    }
  }
  // Whoever has announced the opposite of another one, and done nothing yet, finds here that he may not.
  await ledger.recallOthers(tx, migration.name, direction)
  await ledger.recordStart(tx, migration, direction)
  return own && GOING[direction].includes(own.status) ? own.step : 0
}

/**
 * Whether somebody has done a step meanwhile.
 *
 * @throws {OvertakenError} if the migration has gone the other way.
 */
export async function isDone(
  db: Database,
  { migration: { name }, direction }: Pick<Passage, 'migration' | 'direction'>,
  at: number,
): Promise<boolean> {
  const row = await ledger.findRow(db, name)
  const isUp = direction === 'up'
  if (row?.status === (isUp ? 'applied' : 'reverted')) return true
  if (!row || !GOING[direction].includes(row.status)) {
    throw new OvertakenError(name, isUp ? 'it reverted' : 'it applied')
  }
  if (row.step < at) throw new OvertakenError(name, 'it begun anew')
  return row.step > at
}
