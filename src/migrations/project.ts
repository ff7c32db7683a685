import { access, readdir, readFile } from 'node:fs/promises'
import { isAbsolute, join, relative, resolve } from 'node:path'
import { createJiti } from 'jiti'
import { glob } from 'tinyglobby'
import { MigrationError } from '../errors.ts'
import { isManagedObject, type ManagedObject } from '../schema/managed.ts'
import { migrationsFolder } from './apply.ts'

/** What a drizzle.config.ts says, with the schema files that it names, loaded. */
export interface Project {
  /** The path of the config file. */
  readonly config: string
  /** Where the migrations are, as an absolute path. */
  readonly out: string
  /** The schema files, as absolute paths. */
  readonly files: readonly string[]
  /** What the schema files export, each name once; later files first where two are the same. */
  readonly exports: Record<string, unknown>
  readonly objects: readonly ManagedObject[]
  /** Where drizzle records what was applied. */
  readonly migrationsTable: { readonly schema: string; readonly name: string }
  /** What the folder of migrations is recorded as: `plinth` for the package's own. */
  readonly source: string
}

export interface LoadProjectOptions {
  /** The config file; otherwise the drizzle.config of the working directory. */
  config?: string
  /** What paths are relative to. */
  cwd: string
}

const CONFIGS = ['ts', 'mts', 'cts', 'js', 'mjs', 'cjs', 'json'].map((it) => `drizzle.config.${it}`)

/**
 * Loads what migrations are generated from: the config file, and the schema files that it names. Both may
 * be TypeScript.
 *
 * @throws {MigrationError} for a config that is missing, of another database, or that names no schema file;
 * and for a file that cannot be loaded.
 */
export async function loadProject({ config, cwd }: LoadProjectOptions): Promise<Project> {
  const path = config ? resolve(cwd, config) : await findConfig(cwd)
  const jiti = createJiti(import.meta.url)
  // The files may have changed since this process last read them.
  for (const file of Object.keys(jiti.cache)) {
    if (file.startsWith(cwd) && !file.includes('node_modules')) delete jiti.cache[file]
  }
  const load = async (file: string): Promise<Record<string, unknown>> => {
    try {
      return await jiti.import<Record<string, unknown>>(file)
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error)
      throw new MigrationError(`${relative(cwd, file)} cannot be loaded: ${problem}`, {
        cause: error,
      })
    }
  }
  await access(path).catch(() => {
    throw new MigrationError(`${path} does not exist; name the config file with --config`)
  })
  const loaded = await load(path)
  const settings = (loaded.default ?? loaded) as {
    dialect?: unknown
    schema?: unknown
    out?: unknown
    migrations?: { table?: unknown; schema?: unknown }
  }
  if (settings.dialect !== 'postgresql') {
    throw new MigrationError(
      `${relative(cwd, path)} has the dialect ${JSON.stringify(settings.dialect)}; plinth is for 'postgresql'`,
    )
  }
  const files = await schemaFiles(settings.schema, { cwd, config: relative(cwd, path) })
  const exports: Record<string, unknown> = {}
  const objects: unknown[] = []
  for (const file of files) {
    const module = await load(file)
    Object.assign(exports, module)
    objects.push(...Object.values(module))
  }
  const out = resolve(cwd, typeof settings.out === 'string' ? settings.out : 'drizzle')
  const { table, schema } = settings.migrations ?? {}
  return {
    config: path,
    out,
    files,
    exports,
    objects: collectObjects(objects),
    migrationsTable: {
      schema: typeof schema === 'string' ? schema : 'drizzle',
      name: typeof table === 'string' ? table : '__drizzle_migrations',
    },
    source: out === resolve(migrationsFolder) ? 'plinth' : await packageName(cwd),
  }
}

async function findConfig(cwd: string): Promise<string> {
  const names = await readdir(cwd)
  const found = CONFIGS.find((name) => names.includes(name))
  if (found) return join(cwd, found)
  throw new MigrationError(
    `${cwd} has no drizzle.config.ts; make one, with dialect, schema and out, or name it with --config`,
  )
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
async function schemaFiles(
  schema: unknown,
  { cwd, config }: { cwd: string; config: string },
): Promise<string[]> {
  const patterns = (Array.isArray(schema) ? schema : [schema]).filter(
    (pattern): pattern is string => typeof pattern === 'string' && pattern !== '',
  )
  const found = new Set<string>()
  for (const pattern of patterns) {
    const path = isAbsolute(pattern) ? relative(cwd, pattern) : pattern
    const matches = await glob(path.replaceAll('\\', '/').replace(/^\.\//, ''), {
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
