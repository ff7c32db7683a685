import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { MigrationError } from '../errors.ts'
import type { ManagedObject } from '../schema/managed.ts'
import { checkSchema, stateOfExports, stateOfSnapshots, writeSnapshot } from './kit.ts'
import { joinStatements } from './order.ts'
import { type MigrationPlan, planMigration, type SchemaState } from './plan.ts'
import { loadProject, type Project } from './project.ts'
import { missingExtensions, openScratch, provePlan } from './prove.ts'
import type { Answers } from './renames.ts'

export interface GenerateOptions extends Answers {
  /** What the migration is called; drizzle-kit makes a name up otherwise. */
  name?: string
  /** The config file; otherwise the drizzle.config of the working directory. */
  config?: string
  /** What paths are relative to. */
  cwd: string
  /** Whether to run the migration on a scratch database before it is written. */
  prove?: boolean
  /** What is done to the statements between planning and proving them. */
  harden?: (plan: MigrationPlan, prev: SchemaState) => MigrationPlan | Promise<MigrationPlan>
}

export interface GeneratedMigration {
  /** The path of its migration.sql. */
  readonly path: string
  /** Its folder's name. */
  readonly name: string
  /** What migration.sql and down.sql hold. */
  readonly statements: readonly string[]
  readonly down: readonly string[]
  /** Why it was not proved, where it was not. */
  readonly unproved?: string
}

/**
 * Writes the next migration of a project: what leads from the last one to what the schema files declare now,
 * and back. It is run on a scratch database first, and written only if it makes what is declared.
 *
 * @returns undefined if nothing is due.
 * @throws {OpenQuestionsError} where it is open whether something was renamed or dropped;
 * {MigrationError} for what cannot be loaded, planned or proved. Nothing is left behind.
 * @throws {MissingPackageError} without drizzle-kit, or without PGlite and with `prove`.
 */
export async function generate({
  name,
  config,
  cwd,
  prove = true,
  harden = (plan) => plan,
  ...answers
}: GenerateOptions): Promise<GeneratedMigration | undefined> {
  const project = await loadProject({ ...(config !== undefined && { config }), cwd })
  // drizzle-kit writes no migration where nothing of its own has changed.
  const isCustom = (await checkSchema(project.files, project.out)) === 'unchanged'
  const prev = await readState(project.out)
  const declared: SchemaState = {
    ddl: await stateOfExports(project.exports),
    objects: project.objects,
  }
  const planned = await planMigration(prev, declared, answers)
  if (isCustom && planned.up.length === 0 && planned.down.length === 0) return
  const plan = await harden(planned, prev)
  const unproved = prove ? await proveProject(project, prev, plan) : 'as was asked'
  const path = await write(project, plan, { isCustom, ...(name !== undefined && { name }) })
  return {
    path,
    name: basename(dirname(path)),
    statements: plan.up,
    down: plan.down,
    ...(unproved !== undefined && { unproved }),
  }
}

/** @returns why the plan could not be proved, where it could not. */
async function proveProject(
  { source }: Project,
  prev: SchemaState,
  plan: MigrationPlan,
): Promise<string | undefined> {
  const missing = missingExtensions(prev, plan.next)
  if (missing.length > 0) return `PGlite has no ${missing.join(', ')} here`
  const isOwn = source === 'plinth'
  const db = await openScratch({ withPlinth: !isOwn })
  try {
    await provePlan(db, { prev, plan, searchPath: isOwn ? '' : 'public' })
  } finally {
    await db.close()
  }
}

/** Has drizzle-kit make the folder, and writes the rest into it. */
async function write(
  { files, out }: Project,
  { up, down, renames, next }: MigrationPlan,
  options: { name?: string; isCustom: boolean },
): Promise<string> {
  const had = await migrationNames(out)
  try {
    const path = await writeSnapshot({ schema: files, out, renames, ...options })
    await writeFile(path, joinStatements(up))
    await writeFile(join(dirname(path), 'down.sql'), joinStatements(down))
    await writeObjects(dirname(path), next.objects)
    return path
  } catch (error) {
    for (const made of await migrationNames(out)) {
      if (!had.includes(made)) await rm(join(out, made), { recursive: true })
    }
    throw error
  }
}

/** The names of the migrations of a folder, oldest first. */
export async function migrationNames(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  return entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort()
}

/** The state that the migrations of a folder lead to: drizzle-kit's snapshots, and the objects of the last one. */
export async function readState(folder: string): Promise<SchemaState> {
  const snapshots: Record<string, unknown> = {}
  let objects: ManagedObject[] = []
  for (const name of await migrationNames(folder)) {
    const read = (file: string) => readFile(join(folder, name, file), 'utf8').catch(() => undefined)
    const snapshot = await read('snapshot.json')
    if (snapshot !== undefined) snapshots[name] = parse(snapshot, `${name}/snapshot.json`)
    const list = await read('objects.json')
    if (list !== undefined) objects = parse(list, `${name}/objects.json`) as ManagedObject[]
  }
  return { ddl: await stateOfSnapshots(snapshots), objects }
}

function parse(text: string, file: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new MigrationError(`${file} is no JSON; restore it from version control`, {
      cause: error,
    })
  }
}

const plain = ({ name, create, drop, phase, table }: ManagedObject) => ({
  name,
  create,
  drop,
  phase,
  table,
})

/** Writes objects.json, the managed objects' snapshot, into a migration's folder. */
const writeObjects = (folder: string, objects: readonly ManagedObject[]): Promise<void> =>
  writeFile(join(folder, 'objects.json'), `${JSON.stringify(objects.map(plain), null, 2)}\n`)
