import { isUtf8 } from 'node:buffer'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MigrationError } from '../errors.ts'
import { loadParser } from './advice/parse.ts'
import { readSteps, type Step } from './statements.ts'

/** A folder of migrations, and where drizzle-kit records them. */
export interface MigrationSource {
  /** Unique among those that share a database: `plinth` for the package's own. */
  name: string
  folder: string
  /** The table in which drizzle-kit records them, as drizzle.config.ts has it. */
  table?: string
  /** Its schema. */
  schema?: string
  /** Where unqualified names are looked for; as the login has it unless said. */
  searchPath?: string
}

/** Where the package's own migrations are, whatever the working directory is. */
export const migrationsFolder = fileURLToPath(new URL('../../drizzle', import.meta.url))

export const plinthSource: MigrationSource = {
  name: 'plinth',
  folder: migrationsFolder,
  // A migration that leaves a name unqualified fails here, and not at somebody's search_path.
  searchPath: '',
}

export interface Migration {
  /** Of its folder: `20261121024851_init`. */
  name: string
  source: MigrationSource
  folder: string
  /** The text of migration.sql. */
  content: string
  /** The text of migration.ts, where there is one. */
  module: string | undefined
  /** SHA-256 of the content in hexadecimal, as drizzle-kit records it. */
  checksum: string
  /** Read when they are asked for: of what is applied already, nobody asks. */
  readonly steps: readonly Step[]
  /** Whether it has a down.sql. */
  isReversible: boolean
  /** What undoes it; undefined without a down.sql. */
  readonly down: readonly Step[] | undefined
}

/** SHA-256 in hexadecimal. */
const checksumOf = (content: string): string => createHash('sha256').update(content).digest('hex')

/** The length of `20261121024851_`. */
const STAMP = 15

/** The data migration of a folder, which its last step runs. */
const MODULES = ['migration.ts', 'migration.mts', 'migration.js', 'migration.mjs']

/**
 * The migrations of the sources, in the order in which they are applied: source by source, each by name.
 *
 * @throws {MigrationError} for a folder that is not there, for the layout of an older drizzle-kit, for a file that is not
 * UTF-8, and for a name that two sources have.
 */
export async function readMigrations(sources: readonly MigrationSource[]): Promise<Migration[]> {
  const migrations = (await Promise.all(sources.map(readSource))).flat()
  const seen = new Map<string, MigrationSource>()
  for (const { name, source } of migrations) {
    const other = seen.get(name)
    if (other) {
      throw new MigrationError(`${name} is in ${other.folder} and in ${source.folder}; rename one`)
    }
    seen.set(name, source)
  }
  return migrations
}

async function readSource(source: MigrationSource): Promise<Migration[]> {
  const { folder } = source
  if (existsSync(join(folder, 'meta', '_journal.json'))) {
    throw new MigrationError(`${folder} is of an older drizzle-kit; run: npx drizzle-kit up`)
  }
  const names = await readdir(folder).catch((error) => {
    throw new MigrationError(
      `cannot read the migrations of ${source.name} (${error.code} ${folder}); to make the first one, run: plinth generate`,
    )
  })
  const present = names.filter((name) => existsSync(join(folder, name, 'migration.sql'))).sort()
  return Promise.all(present.map((name) => readMigration(source, name)))
}

async function readMigration(source: MigrationSource, name: string): Promise<Migration> {
  const folder = join(source.folder, name)
  const content = await readText(join(folder, 'migration.sql'))
  const down = join(folder, 'down.sql')
  const module = MODULES.map((file) => join(folder, file)).find((path) => existsSync(path))
  const data: Step[] = module ? [{ kind: 'data', module }] : []
  const isReversible = existsSync(down)
  const downContent = isReversible ? await readText(down) : undefined
  const moduleContent = module === undefined ? undefined : await readText(module)
  const parser = await loadParser()
  let steps: Step[] | undefined
  return {
    name,
    source,
    folder,
    content,
    module: moduleContent,
    checksum: checksumOf(content),
    get steps() {
      steps ??= [...readSteps(parser, content), ...data]
      return steps
    },
    isReversible,
    get down() {
      return downContent === undefined ? undefined : [...data, ...readSteps(parser, downContent)]
    },
  }
}

/** Bytes that are no UTF-8 would be replaced on the way, and what follows a NUL would be left out. */
async function readText(path: string): Promise<string> {
  const bytes = await readFile(path)
  if (isUtf8(bytes) && !bytes.includes(0)) return bytes.toString()
  throw new MigrationError(`${path} is not UTF-8 text; save it as that`)
}

/**
 * The one migration that a name, the beginning of one, its place in the list (from 1), or what follows the stamp means.
 *
 * @throws {MigrationError} for none, and for several.
 */
export function findMigration<M extends { name: string }>(
  migrations: readonly M[],
  target: string,
): M {
  const exact = migrations.find(({ name }) => name === target)
  const nth = /^\d{1,4}$/.test(target) ? migrations[Number(target) - 1] : undefined
  const found = exact
    ? [exact]
    : nth
      ? [nth]
      : migrations.filter(({ name }) => name.startsWith(target) || name.slice(STAMP) === target)
  const [first] = found
  if (first && found.length === 1) return first
  throw new MigrationError(
    found.length > 1
      ? `${target} is the beginning of ${found.map(({ name }) => name).join(', ')}; write more of it`
      : `no migration is called ${target}; see: plinth migrate status`,
  )
}
