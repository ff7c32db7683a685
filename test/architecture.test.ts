import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { is } from 'drizzle-orm'
import { getTableConfig, PgTable } from 'drizzle-orm/pg-core'
import { describe, expect, test } from 'vitest'
import * as schema from '../src/schema/index.ts'
import * as testing from '../src/testing/index.ts'

/** Every TypeScript file under a folder, as its path from the root of the package. */
const filesIn = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name))
    .sort()

const read = (file: string) => readFileSync(file, 'utf8')

interface Import {
  path: string
  /** Of a type only: nothing is loaded for it. */
  isType: boolean
}

/** What a file imports and re-exports, files as paths from the root. */
function importsOf(file: string): Import[] {
  const found = read(file).matchAll(
    /(?:^|\n)(?:import|export) (type )?[^'"`;]*?from '([^']+)'|(?:^|\n)import '([^']+)'|\bimport\('([^']+)'\)/g,
  )
  return [...found].map(([, type, from, bare, dynamic]) => {
    const path = from ?? bare ?? dynamic ?? ''
    return {
      isType: type !== undefined,
      path: path.startsWith('.') ? normalize(join(dirname(file), path)) : path,
    }
  })
}

const imports = (files: string[]) =>
  files.flatMap((file) => importsOf(file).map(({ path }): [string, string] => [file, path]))

const sources = filesIn('src')
/** What both a schema and a queries folder have besides domains. */
const SHARED = [
  'activity-objects',
  'access',
  'budget-objects',
  'budget-windows',
  'columns',
  'costs-budgets',
  'costs-objects',
  'delivery-objects',
  'drift',
  'guards',
  'index',
  'ledger',
  'managed',
  'objects',
  'offloading',
  'partitions',
  'policies',
  'reservation-objects',
  'retrieval',
  'scopes',
  'words',
  'seals',
  'search-objects',
  'spaces',
  'usage-daily',
]
const domainsIn = (folder: string, suffix = '.ts') =>
  (existsSync(folder) ? readdirSync(folder) : [])
    .filter((file) => file.endsWith(suffix))
    .map((file) => file.slice(0, -suffix.length))
    .filter((name) => !SHARED.includes(name))

describe('the floors', () => {
  /** From what the files of a floor may import, besides packages. */
  const floors: Record<string, RegExp> = {
    'src/schema/': /^src\/schema\//,
    'src/queries/': /^src\/((schema|queries)\/)?[\w-]+\.ts$/,
    'src/migrations/': /^src\/(schema\/|queries\/|migrations\/|[\w-]+\.ts$)/,
    'src/testing/': /^src\/(schema\/|queries\/|migrations\/|lifecycle\/|testing\/|[\w-]+\.ts$)/,
    'src/doctor/': /^src\/(schema\/|queries\/|migrations\/|doctor\/|[\w-]+\.ts$)/,
    'src/lifecycle/': /^src\/(schema\/|queries\/|migrations\/|lifecycle\/|[\w-]+\.ts$)/,
    'src/stores/': /^src\/(schema\/|queries\/|stores\/|[\w-]+\.ts$)/,
    'src/integrations/': /^src\/(schema\/|queries\/|integrations\/|[\w-]+\.ts$)/,
    'src/cli/': /^src\/(?!testing\/)/,
  }

  test.each(Object.entries(floors))('%s imports from its own floor or below', (folder, allowed) => {
    const files = sources.filter((file) => file.startsWith(folder))
    const above = imports(files).filter(
      ([, path]) => path.startsWith('src/') && !allowed.test(path),
    )
    expect(above).toEqual([])
  })

  test('floor 1 imports itself and the schema', () => {
    const files = sources.filter((file) => dirname(file) === 'src' && basename(file) !== 'index.ts')
    const above = imports(files).filter(
      ([, path]) => path.startsWith('src/') && !/^src\/([\w-]+|schema\/[\w-]+)\.ts$/.test(path),
    )
    expect(above).toEqual([])
  })

  test('the schema needs drizzle-orm and nothing else', () => {
    const files = sources.filter((file) => file.startsWith('src/schema/'))
    const packages = imports(files).filter(
      ([, path]) => !path.startsWith('src/schema/') && !/^drizzle-orm($|\/pg-core$)/.test(path),
    )
    expect(packages).toEqual([])
  })

  /** Which domain's queries may call another's. ARCHITECTURE.md says why. */
  const DIRECTIONS = [
    'activity-buffer → activity',
    'costs → usage',
    'usage → charging',
    'usage → ledger',
    'ledger → charging',
    'ledger → prices',
    'budgets → charging',
    'budget-alerts → charging',
    'forecast → budgets',
    'metered → idempotency',
    'metered → leases',
    'metered → reservations',
    'reservations → charging',
    'reservations → ledger',
    'reservations → prices',
    'reservations → usage',
    'delivery-queue → deliveries',
    'usage → prices',
    'prices → catalogue',
    'repricing → prices',
    'seal-verification → seals',
    'repricing → ledger',
    'invitations → identity',
    'invitations → members',
    'asking → spaces',
    'context → ai',
    'context → filters',
    'context → search',
    'search → filters',
    'similar → search',
    'similar → source-attributes',
    'search → searches',
    'chunks → source-attributes',
    'sources → source-attributes',
    'sources → source-vectors',
    'source-vectors → source-attributes',
    'embedding-jobs → usage',
    'embedding-jobs → spaces',
    'embedding-jobs → job-queue',
    'embedding-jobs → embedding-failures',
    'filling → embedding-jobs',
    'filling → job-queue',
    'filling → spaces',
    'comparison → filters',
    'comparison → search',
    'drift → job-queue',
    'idempotency → leases',
    'locks → leases',
  ]

  test('queries call another domain only in a listed direction', () => {
    const files = sources.filter(
      (file) => file.startsWith('src/queries/') && !file.endsWith('/index.ts'),
    )
    const directions = imports(files)
      .filter(([, path]) => path.startsWith('src/queries/'))
      .map(([file, path]) => `${basename(file, '.ts')} → ${basename(path, '.ts')}`)
    expect(directions.filter((direction) => !DIRECTIONS.includes(direction))).toEqual([])
  })

  test('nothing imports a barrel but a barrel, and nothing of src imports a test', () => {
    const barrels = imports(sources).filter(
      ([file, path]) =>
        /^src\/.*index\.ts$/.test(path) &&
        basename(file) !== 'index.ts' &&
        !file.startsWith('src/cli/'),
    )
    expect(barrels).toEqual([])
    expect(imports(sources).filter(([, path]) => /^test\//.test(path))).toEqual([])
  })

  test('a barrel re-exports, and does nothing else', () => {
    for (const file of sources.filter((name) => basename(name) === 'index.ts')) {
      const code = read(file)
        .replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
        .replace(/export (type )?(\*|\{[^}]*\}) from '[^']+'/g, '')
      expect(code.trim(), file).toBe('')
    }
  })

  test('no import goes round', () => {
    const graph = new Map(
      sources.map((file) => [
        file,
        importsOf(file)
          .filter(({ path, isType }) => !isType && path.startsWith('src/'))
          .map(({ path }) => path),
      ]),
    )
    const visit = (file: string, trail: string[]): string[] | undefined => {
      if (trail.includes(file)) return [...trail.slice(trail.indexOf(file)), file]
      for (const next of graph.get(file) ?? []) {
        const circle = visit(next, [...trail, file])
        if (circle) return circle
      }
      graph.set(file, [])
    }
    for (const file of sources) expect(visit(file, [])).toBeUndefined()
  })

  test('drizzle-kit, 96 MB, is loaded when a migration is generated and not before', () => {
    const users = sources.filter((file) =>
      importsOf(file).some(({ path, isType }) => path.startsWith('drizzle-kit') && !isType),
    )
    expect(users).toEqual(['src/migrations/generate/kit.ts'])
    expect(read('src/migrations/generate/kit.ts')).not.toMatch(/^import (?!type).*'drizzle-kit/m)
  })

  test('one file knows postgres.js', () => {
    const users = sources.filter((file) =>
      importsOf(file).some(({ path, isType }) => path === 'postgres' && !isType),
    )
    expect(users).toEqual(['src/pipelined.ts'])
  })
})

describe('a file', () => {
  test('has at most 400 lines; a longer one hides a second concern', () => {
    const lengths = sources.map((file) => [file, read(file).trimEnd().split('\n').length] as const)
    expect(lengths.filter(([, lines]) => lines > 400)).toEqual([])
  })

  test.each(sources)('%s leaves the terminal and the process to the cli', (file) => {
    const source = read(file)
    const code = source.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
    if (!file.startsWith('src/cli/')) {
      expect(code).not.toMatch(/\bconsole\.|\bprocess\.(env|argv|exit|std|on\b|chdir)/)
    }
    expect(code).not.toMatch(/:\s*any\b(?!>)|\bas any\b|@ts-(ignore|nocheck)/)
    expect(source).not.toMatch(/\b(TODO|FIXME|HACK|XXX)\b/)
  })

  test('no folder is for what has no place', () => {
    expect(
      sources.filter((file) => /\b(utils?|helpers?|lib|common|types|interfaces)\b/.test(file)),
    ).toEqual([])
  })
})

/** The schema files whose name is the name of a Postgres schema: the domains. */
const domains = domainsIn('src/schema')
const tables = Object.entries(schema).flatMap(([name, value]) =>
  is(value, PgTable) ? [{ name, config: getTableConfig(value) }] : [],
)

describe.each(domains)('the domain %s', (domain) => {
  test('has its four rooms', () => {
    expect(new Set(tables.map(({ config }) => config.schema))).toContain(domain)
    expect(existsSync(`src/schema/${domain}.ts`)).toBe(true)
    expect(existsSync(`src/queries/${domain}.ts`), `src/queries/${domain}.ts`).toBe(true)
    expect(existsSync(`test/queries/${domain}.test.ts`), `test/queries/${domain}.test.ts`).toBe(
      true,
    )
  })
})

/** The file of a domain, and those that are named after it. */
const readDomain = (domain: string | undefined) =>
  sources
    .filter((file) => new RegExp(`^src/schema/${domain}(-[\\w-]+)?\\.ts$`).test(file))
    .map(read)
    .join('\n')

test('every table is in a schema file of its own domain, and every domain in the index', () => {
  for (const { name, config } of tables) {
    expect(readDomain(config.schema), name).toContain(`export const ${name} = `)
  }
  expect(new Set(tables.map(({ config }) => config.schema))).toEqual(new Set(domains))
})

/** Queries files that are tested through another one. */
const INNER = [
  'catalogue',
  'charging',
  'embedding-failures',
  'filters',
  'job-queue',
  'leases',
  'source-attributes',
  'source-vectors',
  'usage',
]

test('every queries file has a test, and is in the index', () => {
  const queries = domainsIn('src/queries').filter((name) => !INNER.includes(name))
  const tested = new Set(imports(filesIn('test')).map(([, path]) => path))
  expect(queries.filter((name) => !tested.has(`src/queries/${name}.ts`))).toEqual([])
  const index = read('src/queries/index.ts')
  expect(queries.filter((name) => !index.includes(`'./${name}.ts'`))).toEqual([])
})

describe('plinth/testing', () => {
  /** Tables whose rows come with another factory's, and which one that is. */
  const MADE_BY: Record<string, string> = {
    errorGroups: 'makeErrorLog',
    activityChains: 'makeSealedActivity',
    activitySeals: 'makeSealedActivity',
    memberships: 'joinScope',
    sealedRows: 'makeSealedActivity',
    usageDaily: 'makeRolledUpUsage',
    usageKeys: 'makeUsageEvent',
    budgetWindows: 'makeBudget',
    budgetAlerts: 'makeUsageEvent',
    usageRollUps: 'makeRolledUpUsage',
    usageStaleDays: 'makeUsageEvent',
  }
  /** The word for one row, as English has it. */
  const singular = (name: string) =>
    name
      .replace(/ies$/, 'y')
      .replace(/(ch|sh|ss|x)es$/, '$1')
      .replace(/s$/, '')
  const factory = (name: string) =>
    MADE_BY[name] ?? `make${singular(name).replace(/^./, (letter) => letter.toUpperCase())}`

  test.each(tables.map(({ name }) => [name, factory(name)]))(
    'makes a row of %s by %s',
    (_, name) => {
      expect(Object.keys(testing)).toContain(name)
    },
  )
})

describe('docstrings', () => {
  const declarations = (file: string) =>
    [
      ...read(file).matchAll(/(.*)\n(export (?:async )?(?:function|class|abstract class) (\w+))/g),
    ].map(([, before = '', , name = '']) => ({
      name,
      isDocumented: before.trimEnd().endsWith('*/'),
    }))

  const documented = sources.filter((file) =>
    /^src\/(queries|migrations|stores|integrations)\/|^src\/\w+\.ts$/.test(file),
  )
  test.each(documented)('%s says what each function and class is for', (file) => {
    const silent = declarations(file)
      // Options stand just above their function, which explains them.
      .filter(({ name, isDocumented }) => !isDocumented && !/(Options|Progress)$/.test(name))
    expect(silent.map(({ name }) => name)).toEqual([])
  })

  test.each(tables.map(({ name, config }) => [name, config.schema]))(
    '%s says what a row is',
    (name, domain) => {
      expect(readDomain(domain)).toMatch(new RegExp(`\\*/\nexport const ${name} = `))
    },
  )
})
