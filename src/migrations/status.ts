import type { Database } from '../database.ts'
import { MigrationStateError } from '../errors.ts'
import { loadParser } from './advice/parse.ts'
import {
  findMigration,
  type Migration,
  type MigrationSource,
  plinthSource,
  readMigrations,
} from './folder.ts'
import { type DrizzleRow, type Ledger, type LedgerRow, readLedger } from './ledger.ts'
import { readSteps } from './statements.ts'

/**
 * `late`: not applied, though a later one of its folder is. `running`: a migrator is at it. `failed`: begun and not ended.
 * `reverting`: the same of taking it back.
 * `edited`: applied with another text. `renamed`: applied under another name. `missing`: applied, and gone from its
 * folder. `newer`: the same, and later than all of the folder: the database is ahead of the code. `retired`: was missing,
 * and that was accepted. `imported`: of the system before plinth.
 */
export type MigrationState =
  | 'applied'
  | 'pending'
  | 'late'
  | 'running'
  | 'failed'
  | 'reverting'
  | 'edited'
  | 'renamed'
  | 'missing'
  | 'newer'
  | 'retired'
  | 'imported'

export interface MigrationStatus {
  name: string
  /** Of its folder: `plinth`, or the project's. */
  source: string
  state: MigrationState
  /** Of the text that was applied; undefined where none was. */
  checksum: string | undefined
  appliedAt: Date | undefined
  appliedBy: string | undefined
  durationMs: number | undefined
  /** Steps done, of `steps`: a migration with a step outside of a transaction has several. */
  step: number
  steps: number
  /** Whether the next step, outside of a transaction, was begun: it may be half done. */
  isStarted: boolean
  /** Why it failed. */
  error: string | undefined
  /** Of `edited`: from the text that was applied to that of the folder, as a unified diff. */
  difference: string | undefined
  /** Of `renamed`: what it was called when it was applied. */
  previousName: string | undefined
  /** Whether it has a down.sql. */
  isReversible: boolean
}

export interface MigrationsOptions {
  /** The folders, in the order in which they are applied; plinth's own unless said. */
  sources?: readonly MigrationSource[]
}

/**
 * Every migration, of the folders and of the database, in the order in which they are applied. Changes nothing.
 *
 * @throws {MigrationError} for a folder that cannot be read.
 */
export async function migrationStatus(
  db: Database,
  { sources = [plinthSource] }: MigrationsOptions = {},
): Promise<MigrationStatus[]> {
  return (await readStatuses(db, sources)).statuses
}

export interface ReadStatuses {
  migrations: Migration[]
  ledger: Ledger
  statuses: MigrationStatus[]
}

/** The same, with the migrations and the records that it comes from. */
export async function readStatuses(
  db: Database,
  sources: readonly MigrationSource[],
): Promise<ReadStatuses> {
  const migrations = await readMigrations(sources)
  const ledger = await readLedger(db, sources)
  return { migrations, ledger, statuses: await compareWithLedger(migrations, ledger, sources) }
}

async function compareWithLedger(
  migrations: readonly Migration[],
  ledger: Ledger,
  sources: readonly MigrationSource[],
): Promise<MigrationStatus[]> {
  const applied = new Set(
    migrations.map(({ name }) => name).filter((name) => isApplied(ledger, name)),
  )
  const statuses = await Promise.all(
    migrations.map(async (migration) => {
      const { name, source } = migration
      const row = ledger.rows.get(name)
      const status = describe(migration, row, ledger.drizzle.get(name))
      status.state = await stateOf(migration, ledger)
      const later = migrations.some(
        (other) => other.source === source && other.name > name && applied.has(other.name),
      )
      if (status.state === 'pending' && later) status.state = 'late'
      if (status.state === 'edited') status.difference = await differenceOf(migration, row)
      return status
    }),
  )
  for (const gone of unknownOf(ledger, migrations, sources)) {
    const twin = statuses.find(
      ({ name, source, state }) =>
        (state === 'pending' || state === 'late') &&
        source === gone.source &&
        migrations.some((one) => one.name === name && one.checksum === gone.checksum),
    )
    if ((gone.state === 'missing' || gone.state === 'newer') && twin) {
      Object.assign(twin, { ...gone, name: twin.name, state: 'renamed', previousName: gone.name })
      twin.isReversible = migrations.some((one) => one.name === twin.name && one.isReversible)
    } else statuses.push(gone)
  }
  const order = sources.map(({ name }) => name)
  const place = ({ source }: MigrationStatus) => order.indexOf(source)
  return statuses.sort((a, b) => place(a) - place(b) || (a.name < b.name ? -1 : 1))
}

/** Of one that is being reverted, nothing is gone before its first step is done. */
const isThere = ({ status }: LedgerRow) => status === 'applied' || status === 'reverting'

function isApplied({ rows, drizzle }: Ledger, name: string): boolean {
  const row = rows.get(name)
  return drizzle.has(name) || (row !== undefined && isThere(row))
}

async function stateOf(migration: Migration, ledger: Ledger): Promise<MigrationState> {
  const row = ledger.rows.get(migration.name)
  const record = ledger.drizzle.get(migration.name)
  if (row?.status === 'reverting' && (row.step > 0 || row.isStarted)) return 'reverting'
  if (row && !record && (row.status === 'running' || row.status === 'failed')) {
    if (ledger.isLocked && row.status === 'running') return 'running'
    // What is done of it must still be what its text says.
    return row.checksum === migration.checksum || (await hasSameBeginning(migration, row))
      ? 'failed'
      : 'edited'
  }
  const checksum = record?.checksum ?? (row && isThere(row) ? row.checksum : undefined)
  if (checksum === undefined) return 'pending'
  const isSame =
    checksum === migration.checksum && !(row && isThere(row) && isModuleEdited(migration, row))
  return isSame ? 'applied' : 'edited'
}

/** Of what drizzle-kit alone has recorded, nothing is known but the checksum of the SQL. */
const isModuleEdited = ({ module }: Migration, row: LedgerRow) =>
  row.content !== null && (row.module ?? undefined) !== module

async function hasSameBeginning({ steps }: Migration, { content, step, isStarted }: LedgerRow) {
  const done = step + (isStarted ? 1 : 0)
  const before = readSteps(await loadParser(), content ?? '')
  return JSON.stringify(before.slice(0, done)) === JSON.stringify(steps.slice(0, done))
}

function describe(
  migration: Migration,
  row: LedgerRow | undefined,
  record: DrizzleRow | undefined,
): MigrationStatus {
  const isRecorded = row && row.status !== 'reverted'
  return {
    name: migration.name,
    source: migration.source.name,
    state: 'pending',
    checksum: record?.checksum ?? (row && isThere(row) ? row.checksum : undefined),
    appliedAt: (isRecorded ? row.appliedAt : undefined) ?? record?.appliedAt ?? undefined,
    appliedBy: (isRecorded ? row.appliedBy : undefined) ?? undefined,
    durationMs: (isRecorded ? row.durationMs : undefined) ?? undefined,
    step: isRecorded ? row.step : record ? migration.steps.length : 0,
    steps: isRecorded ? row.steps : migration.steps.length,
    isStarted: row?.isStarted ?? false,
    error: interruption(row),
    difference: undefined,
    previousName: undefined,
    isReversible: migration.isReversible,
  }
}

const interruption = (row: LedgerRow | undefined) =>
  row?.error ??
  (row?.status === 'running' || row?.status === 'reverting' ? 'interrupted' : undefined)

async function differenceOf(migration: Migration, row: LedgerRow | undefined): Promise<string> {
  if (typeof row?.content !== 'string') {
    return 'its text as applied is not known: drizzle-kit records a checksum only; see the history of the file'
  }
  const isModule = row.content === migration.content
  const applied = (isModule ? row.module : row.content) ?? ''
  const content = (isModule ? migration.module : migration.content) ?? ''
  if (applied.replaceAll('\r\n', '\n') === content.replaceAll('\r\n', '\n')) {
    return 'only the line endings differ; keep the files from being converted (in .gitattributes: *.sql -text)'
  }
  const path = `${migration.name}/${isModule ? 'migration.ts' : 'migration.sql'}`
  const { createTwoFilesPatch } = await import('diff')
  const patch = createTwoFilesPatch(path, path, applied, content, 'as applied', 'in the folder')
  // Above it are the lines of another tool's header.
  return patch.slice(patch.indexOf('---')).trimEnd()
}

/** Of one that failed in its first step, which is undone, nothing is there. */
const isUntouched = ({ status, step, isStarted, progress }: LedgerRow) =>
  (status === 'running' || status === 'failed') && step === 0 && !isStarted && progress === null

/** What the database has and no folder. */
function unknownOf(
  { rows, drizzle, isLocked }: Ledger,
  migrations: readonly Migration[],
  sources: readonly MigrationSource[],
): MigrationStatus[] {
  const known = new Set(migrations.map(({ name }) => name))
  const names = new Set([...drizzle.keys(), ...rows.keys()])
  // What drizzle-kit alone has recorded is the project's; plinth on its own cannot tell.
  const project = sources.find(({ name }) => name !== plinthSource.name)
  return [...names].flatMap((name) => {
    if (known.has(name)) return []
    const row = rows.get(name)
    const record = drizzle.get(name)
    const source = row?.source ?? project?.name
    const isOurs = row?.status === 'imported' || sources.some((one) => one.name === source)
    if (source === undefined || !isOurs || row?.status === 'reverted') return []
    if (row && !record && !isLocked && isUntouched(row)) return []
    const last = migrations.findLast((migration) => migration.source.name === source)
    const isSettled = row?.status === 'retired' || row?.status === 'imported'
    const state = isSettled ? row.status : last && last.name > name ? 'missing' : 'newer'
    return [
      {
        name,
        source,
        state: state as MigrationState,
        checksum: record?.checksum ?? row?.checksum,
        appliedAt: row?.appliedAt ?? record?.appliedAt ?? undefined,
        appliedBy: row?.appliedBy ?? undefined,
        durationMs: row?.durationMs ?? undefined,
        step: row?.step ?? 1,
        steps: row?.steps ?? 1,
        isStarted: row?.isStarted ?? false,
        error: interruption(row),
        difference: undefined,
        previousName: undefined,
        isReversible: false,
      },
    ]
  })
}

/** What is wrong with a migration, and the ways out, in one sentence; undefined if nothing is. */
function problemOf(status: MigrationStatus) {
  const { name, state, checksum, step, steps, error, difference, previousName } = status
  const accept = `--accept ${name}`
  switch (state) {
    case 'late':
      return `${name} is not applied, though later ones are (merged late?): if it may run after them, pass ${accept}; or generate it anew`
    case 'edited':
      // No text is accepted for one of which only a part was run.
      return checksum === undefined
        ? `${name} was edited where it is half applied (${step} of ${steps} steps done): put the text of what was begun back, and finish it with plinth migrate up\n${difference}`
        : `${name} was edited after it was applied: put its text back and write the change into a new migration, or pass ${accept} to take the new text for what was applied\n${difference}`
    case 'renamed':
      return `${name} was applied as ${previousName}: give it that name again, or pass ${accept} to record the new one`
    case 'missing':
      return `${name} was applied and is not in its folder: put it back, or pass ${accept} if it was removed for good`
    case 'newer':
      return `${name} was applied and is later than all of its folder: the database is newer than this code; deploy the code that has it, or pass ${accept}`
    case 'reverting':
      return `${name} is half reverted (${error}): finish that with plinth migrate down`
    default:
      return undefined
  }
}

/**
 * The full names of what is accepted, each named as in `findMigration`.
 *
 * @throws {MigrationError} for one that is none, and that is several.
 */
export const acceptedNames = (
  statuses: readonly MigrationStatus[],
  accept: readonly string[] = [],
): string[] => accept.map((target) => findMigration(statuses, target).name)

/**
 * Refuses to go on with what `accepted` does not name.
 *
 * @throws {MigrationStateError}
 */
export function checkStates(statuses: readonly MigrationStatus[], accepted: readonly string[]) {
  const problems = statuses
    .filter(({ name }) => !accepted.includes(name))
    .flatMap((status) => {
      const problem = problemOf(status)
      return problem ? [{ name: status.name, state: status.state, problem }] : []
    })
  if (problems.length > 0) throw new MigrationStateError(problems)
}
