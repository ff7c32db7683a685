import type { Database } from '../database.ts'
import { literal } from './advice/names.ts'
import { dueOf, type MigrateOptions } from './apply.ts'
import { plinthSource } from './folder.ts'
import type { Direction } from './ledger.ts'
import { isConcurrent } from './run.ts'
import { settingsOf } from './settings.ts'
import type { Step } from './statements.ts'
import { acceptedNames, checkStates, readStatuses } from './status.ts'
import { type Settled, settle } from './turns.ts'

export interface PlannedMigration {
  name: string
  direction: Direction
  /** What would be sent, in order. What records it in the ledger is a comment. */
  script: string
}

const ended = (statement: string) => (/;\s*$/.test(statement) ? statement : `${statement};`)

/** What running the steps sends. */
export function scriptOf(
  steps: readonly Step[],
  { lockTimeoutMs, source }: Settled,
  concurrent: boolean,
): string {
  const set = (isLocal: boolean, lockTimeout: number) =>
    Object.entries(settingsOf(lockTimeout, source)).map(
      ([name, value]) => `set ${isLocal ? 'local ' : ''}${name} = ${literal(value)};`,
    )
  const inside = (statements: readonly string[]) => [
    'begin;',
    ...set(true, lockTimeoutMs),
    ...statements.map(ended),
    '-- and the record of it',
    'commit;',
  ]
  return steps
    .flatMap((step) => {
      if (step.kind === 'data') return [`-- the batches of ${step.module}, each in a transaction`]
      if (step.kind === 'transaction') return inside(step.statements)
      if (!concurrent && step.plain) return inside([step.plain])
      return [...set(false, 0), ended(step.statement), '-- and the record of it']
    })
    .join('\n')
}

/**
 * What `migrate` would run with the same options, statement by statement. Changes nothing.
 *
 * @throws {MigrationStateError} as `migrate` does.
 */
export async function planMigrate(
  db: Database,
  options: MigrateOptions = {},
): Promise<PlannedMigration[]> {
  const { sources = [plinthSource] } = options
  const { migrations, statuses } = await readStatuses(db, sources)
  checkStates(statuses, acceptedNames(statuses, options.accept))
  const concurrent = await isConcurrent(db)
  return dueOf(migrations, statuses, options).map(({ name, source, steps }) => {
    const done = statuses.find((status) => status.name === name)?.step ?? 0
    const script = scriptOf(steps.slice(done), settle(options, source), concurrent)
    return { name, direction: 'up', script }
  })
}
