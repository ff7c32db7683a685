import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { MigrationError } from '../errors.ts'
import type { ManagedObject } from '../schema/managed.ts'

const BREAKPOINT = '--> statement-breakpoint'
const TITLE = '-- managed: '
const DROPPED = '-- managed: dropped '

const statements = (migration: string) =>
  migration
    .split(BREAKPOINT)
    .map((statement) => statement.trim())
    .filter(Boolean)

const titled = ({ name }: ManagedObject, statement: string) => `${TITLE}${name}\n${statement};`

/** Whether a statement of a migration is the object as it is declared now. */
const isCurrent = (object: ManagedObject, statement: string) =>
  object.phase === 'within'
    ? statement.endsWith(`\n) ${object.create};`)
    : statement === titled(object, object.create)

/**
 * The objects whose SQL, as last written into `migrations` (oldest first), is not what is declared.
 *
 * @throws {MigrationError} for an object that the migrations make and nobody declares any more, and for
 * a partitioning that has changed: neither can be derived.
 */
export function changedObjects(
  objects: readonly ManagedObject[],
  migrations: readonly string[],
): ManagedObject[] {
  const latest = new Map<string, string>()
  for (const statement of migrations.flatMap(statements)) {
    const [line = ''] = statement.split('\n', 1)
    if (line.startsWith(DROPPED)) latest.delete(line.slice(DROPPED.length))
    else if (line.startsWith(TITLE)) latest.set(line.slice(TITLE.length), statement)
  }
  const declared = new Set(objects.map(({ name }) => name))
  for (const name of latest.keys()) {
    if (!declared.has(name)) {
      throw new MigrationError(
        `${name} is in the migrations but no longer declared; write its drop into a custom migration, below the line "${DROPPED}${name}"`,
      )
    }
  }
  return objects.filter((object) => {
    const statement = latest.get(object.name)
    if (statement === undefined) return true
    if (isCurrent(object, statement)) return false
    if (object.phase === 'within') {
      throw new MigrationError(
        `${object.name} has changed, which Postgres cannot do in place; make a new table and move the rows`,
      )
    }
    return true
  })
}

/**
 * Lays the objects around, and for a partitioning into, the statements that drizzle-kit generated.
 *
 * @throws {MigrationError} unless a partitioning finds exactly one CREATE TABLE of its table.
 */
export function splice(generated: string, objects: readonly ManagedObject[]): string {
  const body = statements(generated)
  for (const object of objects.filter(({ phase }) => phase === 'within')) {
    const places = body.flatMap((statement, at) =>
      statement.startsWith(`CREATE TABLE ${object.table} (`) && statement.endsWith('\n);')
        ? [at]
        : [],
    )
    const [place] = places
    if (place === undefined || places.length > 1) {
      throw new MigrationError(
        `${object.name} matches ${places.length} generated statements and not exactly one; is the table new, and in one schema file only?`,
      )
    }
    body[place] = titled(object, `${body[place]?.slice(0, -1)} ${object.create}`)
  }
  const around = (phase: ManagedObject['phase']) =>
    objects
      .filter((object) => object.phase === phase)
      .map((object) => titled(object, object.create))

  return `${[...around('before'), ...body, ...around('after')].join(`\n${BREAKPOINT}\n`)}\n`
}

export interface GenerateMigrationOptions {
  /** What the migration is called; drizzle-kit makes a name up otherwise. */
  name?: string
  /** Where the migrations are; as the drizzle.config.ts of the working directory says. */
  folder?: string
}

/**
 * Writes the next migration: what drizzle-kit finds in the tables, with the managed objects in it.
 *
 * @returns the path of its migration.sql, or undefined if nothing was due.
 * @throws {MigrationError} where drizzle-kit needs an answer, or a splice does not match; nothing is left behind.
 */
export async function generateMigration(
  objects: readonly ManagedObject[],
  { name, folder = 'drizzle' }: GenerateMigrationOptions = {},
): Promise<string | undefined> {
  const due = changedObjects(objects, await readMigrations(folder))
  const path =
    (await kitGenerate({ name })) ??
    (due.length ? await kitGenerate({ name, custom: true }) : undefined)
  if (!path) return
  try {
    const generated = (await readFile(path, 'utf8')).replace(
      /^-- Custom SQL migration file.*\n/,
      '',
    )
    await writeFile(path, splice(generated, due))
  } catch (error) {
    await rm(dirname(path), { recursive: true })
    throw error
  }
  return path
}

/** The SQL of every migration of a folder, oldest first. */
export async function readMigrations(folder: string): Promise<string[]> {
  const names = (await readdir(folder).catch(() => [])).sort()
  return Promise.all(names.map((name) => readFile(join(folder, name, 'migration.sql'), 'utf8')))
}

// All that plinth knows of drizzle-kit, which is a release candidate and may change.
async function kitGenerate(options: { name?: string; custom?: boolean }) {
  const { generate } = await import('drizzle-kit/cli')
  const result = await generate(options)
  if (result.status === 'no_changes') return
  if (!('migration_path' in result)) {
    throw new MigrationError(`drizzle-kit could not generate: ${JSON.stringify(result)}`)
  }
  return result.migration_path
}
