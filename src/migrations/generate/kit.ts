import type { Hint } from 'drizzle-kit/api-postgres'
import { MigrationError, MissingPackageError, ValidationError } from '../../errors.ts'

// All that plinth knows of drizzle-kit, which is a release candidate and may change.
const api = () => load(import('drizzle-kit/api-postgres'))
const cli = () => load(import('drizzle-kit/cli'))

async function load<T>(imported: Promise<T>): Promise<T> {
  try {
    return await imported
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND') {
      throw new MissingPackageError(['drizzle-kit'], { cause: error })
    }
    throw error
  }
}

type Snapshot = Awaited<ReturnType<typeof import('drizzle-kit/api-postgres').generateDrizzleJson>>

/** One table, column, index and so on, as drizzle-kit describes it. */
export type Entity = Snapshot['ddl'][number]
/** The entities of one kind. */
export type EntityOf<Kind extends Entity['entityType']> = Extract<Entity, { entityType: Kind }>

/** What drizzle-kit calls a kind of entity where it asks whether one was renamed. */
export type RenameKind = Extract<Hint, { type: 'rename' }>['kind']

/** An entity that has another name now. `from` names it as the renames before this one have left it. */
export interface Rename {
  readonly kind: RenameKind
  readonly from: readonly string[]
  readonly to: readonly string[]
}

const snapshot = (ddl: readonly Entity[]): Snapshot => ({
  version: '9',
  dialect: 'postgres',
  id: '',
  prevIds: [],
  ddl: [...ddl],
})

/** A hint of drizzle-kit's, whose tuples TypeScript cannot tell from arrays. */
const hint = (value: Record<string, unknown>) => value as unknown as Hint

const renameHints = (renames: readonly Rename[]) =>
  renames.map((rename) => hint({ type: 'rename', ...rename }))

/**
 * The statements that drizzle-kit writes to turn one state into another. An entity is new unless it is
 * in `renames`.
 */
export async function diff(
  from: readonly Entity[],
  to: readonly Entity[],
  renames: readonly Rename[] = [],
): Promise<string[]> {
  const { generateMigration } = await api()
  const hints = renameHints(renames)
  for (;;) {
    try {
      const copy = structuredClone({ from, to })
      const statements = await generateMigration(snapshot(copy.from), snapshot(copy.to), { hints })
      return statements.map((statement) => statement.trim().replace(/;$/, ''))
    } catch (error) {
      const missing = missingOf(error)
      if (missing.length === 0) throw error
      hints.push(...missing)
    }
  }
}

/** What drizzle-kit asks, answered by `create`. */
function missingOf(error: unknown): Hint[] {
  if (!(error instanceof Error && 'missingHints' in error && Array.isArray(error.missingHints)))
    return []
  return created(error.missingHints)
}

const created = (questions: readonly { kind: string; entity: unknown }[]) =>
  questions.map(({ kind, entity }) => hint({ type: 'create', kind, entity }))

/** The state that the exports of schema modules declare. */
export async function stateOfExports(exports: Record<string, unknown>): Promise<Entity[]> {
  const { generateDrizzleJson } = await api()
  // As Node orders a module's exports, whoever has loaded it.
  const ordered = Object.entries(exports).sort(([a], [b]) => (a < b ? -1 : 1))
  return (await generateDrizzleJson(Object.fromEntries(ordered))).ddl
}

/**
 * The state that the snapshots of a folder describe, by the names of the migrations.
 *
 * @throws {MigrationError} where a snapshot is missing or two branches were not merged.
 */
export async function stateOfSnapshots(files: Record<string, unknown>): Promise<Entity[]> {
  if (Object.keys(files).length === 0) return []
  const { reconstruct } = await api()
  try {
    return (await reconstruct(files)).ddl
  } catch (error) {
    throw new MigrationError(error instanceof Error ? error.message : String(error))
  }
}

export interface WriteSnapshotOptions {
  schema: readonly string[]
  out: string
  name?: string
  renames: readonly Rename[]
  /** Nothing of drizzle's has changed: a migration of plinth's objects alone. */
  isCustom: boolean
}

/**
 * Has drizzle-kit read the schema files and say whether they are sound. Its programmatic API would end
 * the process instead.
 *
 * @returns whether they differ from the last snapshot.
 * @throws {MigrationError} with what drizzle-kit says.
 */
export async function checkSchema(
  schema: readonly string[],
  out: string,
): Promise<'changed' | 'unchanged'> {
  const { generate } = await cli()
  const options = { dialect: 'postgresql', schema: list(schema), out, explain: true } as const
  const result = await generate(options)
  if (result.status === 'error') throw refused(result.error)
  return result.status === 'no_changes' ? 'unchanged' : 'changed'
}

/**
 * Has drizzle-kit make a migration's folder with its snapshot.
 *
 * @returns the path of its migration.sql.
 * @throws {ValidationError} for a name that is no part of a folder's. @throws {MigrationError} with what drizzle-kit says.
 */
export async function writeSnapshot({
  schema,
  out,
  name,
  renames,
  isCustom,
}: WriteSnapshotOptions): Promise<string> {
  if (name !== undefined && !/^[\p{L}\p{N}_-]+$/u.test(name)) {
    // drizzle-kit would take it for a path, and the migration would lose its place in the order.
    throw new ValidationError('name', 'must be of letters, digits, _ and -')
  }
  const { generate } = await cli()
  const hints = renameHints(renames)
  for (;;) {
    const result = await generate({
      dialect: 'postgresql',
      schema: list(schema),
      out,
      name,
      hints,
      custom: isCustom,
    })
    if (result.status === 'missing_hints') hints.push(...created(result.unresolved))
    else if ('migration_path' in result) return result.migration_path
    else if (result.status === 'error') throw refused(result.error)
    else throw new MigrationError('drizzle-kit finds nothing to write where plinth does; report it')
  }
}

/** Many files, for an option that is typed as if a command line had given it. */
const list = (schema: readonly string[]) => [...schema] as unknown as string

const refused = (error: { code: string; message?: string }) =>
  new MigrationError(
    `drizzle-kit refuses: ${error.message ?? JSON.stringify(error)}; mend the schema files and generate again`,
  )
