import { access, readdir, readFile } from 'node:fs/promises'
import { isAbsolute, join, relative, resolve } from 'node:path'
import { createJiti, type Jiti } from 'jiti'
import { glob } from 'tinyglobby'
import { MigrationError } from '../errors.ts'
import { isManagedObject, type ManagedObject } from '../schema/managed.ts'
import { type MigrationSource, migrationsFolder, plinthSource } from './folder.ts'

/** What a drizzle.config.ts says. */
export interface ProjectConfig {
  /** The path of the config file. */
  readonly path: string
  /** What its paths are relative to. */
  readonly cwd: string
  /** Paths, folders and patterns of the schema files, as they are written. */
  readonly schema: readonly string[]
  /** The folder of the migrations and where drizzle records them. */
  readonly source: MigrationSource
  /** Of a server; undefined for anything else. */
  readonly url: string | undefined
}

/** The same, with the schema files loaded. */
export interface Project extends ProjectConfig {
  /** The schema files, as absolute paths. */
  readonly files: readonly string[]
  /** What the schema files export, each name once; later files first where two are the same. */
  readonly exports: Record<string, unknown>
  readonly objects: readonly ManagedObject[]
}

export interface LoadConfigOptions {
  /** The config file; otherwise the drizzle.config of the working directory. */
  config?: string
  /** What paths are relative to. */
  cwd: string
}

const CONFIGS = ['ts', 'mts', 'cts', 'js', 'mjs', 'cjs', 'json'].map((it) => `drizzle.config.${it}`)

/** As a config file may be: nothing is certain. */
interface Settings {
  dialect?: unknown
  schema?: unknown
  out?: unknown
  migrations?: { table?: unknown; schema?: unknown }
  dbCredentials?: { url?: unknown }
}

const textOr = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : undefined

async function load<T>(jiti: Jiti, file: string, cwd: string): Promise<T> {
  try {
    return await jiti.import<T>(file)
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new MigrationError(`${relative(cwd, file)} cannot be loaded: ${problem}`, {
      cause: error,
    })
  }
}

/**
 * Loads a project's config file, which may be TypeScript.
 *
 * @returns undefined if none is named and there is none.
 * @throws {MigrationError} for one that is named and missing, that cannot be loaded, or is of another database.
 */
export async function loadConfig({
  config,
  cwd,
}: LoadConfigOptions): Promise<ProjectConfig | undefined> {
  const path = config === undefined ? await findConfig(cwd) : resolve(cwd, config)
  if (path === undefined) return
  await access(path).catch(() => {
    throw new MigrationError(`${path} does not exist; name the config file with --config`)
  })
  const loaded = await load<Settings & { default?: Settings }>(
    createJiti(import.meta.url),
    path,
    cwd,
  )
  const { dialect, schema, out, migrations, dbCredentials } = loaded.default ?? loaded
  if (dialect !== 'postgresql') {
    throw new MigrationError(
      `${relative(cwd, path)} has the dialect ${JSON.stringify(dialect)}; plinth is for 'postgresql'`,
    )
  }
  const url = textOr(dbCredentials?.url)
  return {
    path,
    cwd,
    schema: [schema].flat().filter((pattern) => textOr(pattern) !== undefined) as string[],
    source: await sourceOf(resolve(cwd, textOr(out) ?? 'drizzle'), migrations ?? {}, cwd),
    url: url && /^postgres(ql)?:/.test(url) ? url : undefined,
  }
}

async function sourceOf(
  folder: string,
  migrations: NonNullable<Settings['migrations']>,
  cwd: string,
): Promise<MigrationSource> {
  if (folder === resolve(migrationsFolder)) return plinthSource
  const table = textOr(migrations.table)
  const schema = textOr(migrations.schema)
  return {
    name: await packageName(cwd),
    folder,
    ...(table !== undefined && { table }),
    ...(schema !== undefined && { schema }),
  }
}

/** plinth's migrations, and behind them those of the project. */
export const sourcesOf = (config: ProjectConfig | undefined): MigrationSource[] =>
  !config || config.source === plinthSource ? [plinthSource] : [plinthSource, config.source]

/**
 * Loads what migrations are generated from: the config file, and the schema files that it names. Both may
 * be TypeScript.
 *
 * @throws {MigrationError} for a config that is missing, of another database, or that names no schema file;
 * and for a file that cannot be loaded.
 */
export async function loadProject(options: LoadConfigOptions): Promise<Project> {
  const { cwd } = options
  const config = await loadConfig(options)
  if (!config) {
    throw new MigrationError(
      `${cwd} has no drizzle.config.ts; make one, with dialect, schema and out, or name it with --config`,
    )
  }
  const files = await schemaFiles(config)
  const jiti = createJiti(import.meta.url)
  // All instances share what they have loaded, and the files may have changed since.
  for (const path of Object.keys(jiti.cache)) {
    if (!path.includes('node_modules')) delete jiti.cache[path]
  }
  const exports: Record<string, unknown> = {}
  const objects: unknown[] = []
  for (const file of files) {
    const module = await load<Record<string, unknown>>(jiti, file, cwd)
    Object.assign(exports, module)
    objects.push(...Object.values(module))
  }
  return { ...config, files, exports, objects: collectObjects(objects) }
}

async function findConfig(cwd: string): Promise<string | undefined> {
  const names = await readdir(cwd)
  const found = CONFIGS.find((name) => names.includes(name))
  return found && join(cwd, found)
}

/** The name of the project, or else of its folder. */
async function packageName(cwd: string): Promise<string> {
  const text = await readFile(join(cwd, 'package.json'), 'utf8').catch(() => '{}')
  const { name } = JSON.parse(text) as { name?: unknown }
  const folder = resolve(cwd).split(/[/\\]/).at(-1) ?? 'app'
  const chosen = typeof name === 'string' && name !== '' ? name : folder
  // The package's own is another source.
  return chosen === 'plinth' ? 'app' : chosen
}

/** The files that a config names: paths, globs and folders, as drizzle-kit takes them. */
async function schemaFiles({ cwd, path, schema: patterns }: ProjectConfig): Promise<string[]> {
  const found = new Set<string>()
  for (const pattern of patterns) {
    const place = isAbsolute(pattern) ? relative(cwd, pattern) : pattern
    const matches = await glob(place.replaceAll('\\', '/').replace(/^\.\//, ''), {
      cwd,
      absolute: true,
      onlyFiles: true,
      expandDirectories: true,
    })
    for (const match of matches.sort()) {
      if (/\.[cm]?[jt]s$/.test(match) && !match.endsWith('.d.ts')) found.add(match)
    }
  }
  if (found.size > 0) return [...found]
  const config = relative(cwd, path)
  throw new MigrationError(
    patterns.length === 0
      ? `${config} names no schema; say in \`schema\` which files declare the tables`
      : `${config} names ${patterns.join(', ')} in \`schema\`, and no file is there`,
  )
}

/**
 * The managed objects among what is exported, alone and in arrays. An array that holds another one's decides
 * the order.
 *
 * @throws {MigrationError} for two objects of one name.
 */
export function collectObjects(exported: readonly unknown[]): ManagedObject[] {
  const lists = exported.flatMap((value) => {
    if (isManagedObject(value)) return [[value]]
    return Array.isArray(value) ? [value.flat(1).filter(isManagedObject)] : []
  })
  const byName = new Map<string, ManagedObject>()
  // Sorting is stable: lists of the same length keep the order of the files.
  for (const object of lists.sort((a, b) => b.length - a.length).flat()) {
    const known = byName.get(object.name)
    if (known && known.create !== object.create) {
      throw new MigrationError(`two managed objects are called ${object.name}; rename one of them`)
    }
    if (!known) byName.set(object.name, object)
  }
  return [...byName.values()]
}
