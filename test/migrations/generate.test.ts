import { execFile } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, describe, expect, test } from 'vitest'
import { MigrationError } from '../../src/errors.ts'
import { textsOf } from '../../src/migrations/advice/parse.ts'
import { migrationsFolder, plinthSource, readMigrations } from '../../src/migrations/folder.ts'
import { generate, migrationNames, readState } from '../../src/migrations/generate/generate.ts'
import { stateOfExports } from '../../src/migrations/generate/kit.ts'
import { planMigration } from '../../src/migrations/generate/plan.ts'
import { OpenQuestionsError } from '../../src/migrations/generate/renames.ts'
import { collectObjects, loadProject } from '../../src/migrations/project.ts'
import * as schema from '../../src/schema/index.ts'
import { type ManagedObject, managedSchema } from '../../src/schema/managed.ts'
import { managedObjects } from '../../src/schema/objects.ts'
import { declare, makeProject, plinth } from '../support/project.ts'

const run = promisify(execFile)
const folders: string[] = []
afterAll(async () => {
  for (const folder of folders) await rm(folder, { recursive: true })
})

const filesOf = async (folder: string) =>
  (await readdir(folder, { recursive: true }).catch(() => [])).sort()

const statementsOf = (text: string) => textsOf(text).map((statement) => statement.trim())

describe('the project of a user', () => {
  test('gets migrations of its own tables, its objects, and nothing of plinth’s', async () => {
    const cwd = await makeProject(folders)
    const made = await generate({ cwd, name: 'first' })
    expect(made?.name).toMatch(/^\d{14}_first$/)
    expect(made?.unproved).toBeUndefined()
    const folder = join(cwd, 'migrations', made?.name ?? '')
    expect(await filesOf(folder)).toEqual([
      'down.sql',
      'migration.sql',
      'objects.json',
      'snapshot.json',
    ])
    const up = await readFile(join(folder, 'migration.sql'), 'utf8')
    expect(statementsOf(up)).toEqual(made?.statements)
    expect(up).toContain('REFERENCES "identity"."organizations"')
    expect(up).not.toContain('CREATE TABLE "identity"')
    expect(up).toContain(
      '-- managed: grant app.posts\ngrant select on "app"."posts" to plinth_app;',
    )
    expect(statementsOf(await readFile(join(folder, 'down.sql'), 'utf8'))).toEqual(made?.down)
    expect(await generate({ cwd }), 'and nothing is due then').toBeUndefined()

    // What drizzle-kit sees is the same.
    const { stdout } = await run('npx', ['drizzle-kit', 'generate'], { cwd })
    expect(stdout).toMatch(/no schema changes|nothing to migrate/i)

    await declare(cwd, "headline: text('headline').notNull()")
    const before = await filesOf(join(cwd, 'migrations'))
    const open = await generate({ cwd }).catch((error) => error)
    expect(open).toBeInstanceOf(OpenQuestionsError)
    expect(await filesOf(join(cwd, 'migrations'))).toEqual(before)
    const renames = [{ from: 'app.posts.title', to: 'app.posts.headline' }]
    const second = await generate({ cwd, name: 'second', renames })
    expect(second?.statements).toEqual([
      'ALTER TABLE "app"."posts" RENAME COLUMN "title" TO "headline";',
    ])
    expect(second?.down).toEqual(['ALTER TABLE "app"."posts" RENAME COLUMN "headline" TO "title";'])
    expect(await generate({ cwd })).toBeUndefined()
    const { stdout: again } = await run('npx', ['drizzle-kit', 'generate'], { cwd })
    expect(again).toMatch(/no schema changes|nothing to migrate/i)

    await writeFile(
      join(cwd, 'db', 'more.ts'),
      `import { sql } from 'drizzle-orm'
import { managedFunction } from '${plinth}/managed.ts'
export const one = managedFunction('app.one()', sql\`create or replace function app.one() returns integer language sql as $$ select 1 $$\`)
`,
    )
    const third = await generate({ cwd, name: 'third', prove: false })
    expect(third?.unproved).toBe('as was asked')
    expect(third?.statements).toHaveLength(1)
    expect(third?.down).toEqual([
      '-- managed: function app.one()\ndrop function if exists app.one();',
    ])
    expect(await generate({ cwd })).toBeUndefined()
    expect((await readState(join(cwd, 'migrations'))).objects.map(({ name }) => name)).toContain(
      'function app.one()',
    )
  }, 240_000)

  test('whose SQL fails is told so, and nothing is left behind', async () => {
    const cwd = await makeProject(folders)
    await declare(
      cwd,
      "title: text('title')",
      `export const bad = managedGrant('bad', sql\`grant select on \${posts} to nobody_at_all\`)`,
    )
    await expect(generate({ cwd })).rejects.toThrow(/the migration fails|declared fails/)
    expect(await filesOf(join(cwd, 'migrations'))).toEqual([])
  }, 60_000)

  test('builds an index of a table in use beside the writers, and says what waits otherwise', async () => {
    const cwd = await makeProject(folders)
    await generate({ cwd, prove: false })
    const file = join(cwd, 'db', 'schema.ts')
    const schema = await readFile(file, 'utf8')
    await writeFile(
      file,
      schema
        .replace('{ foreignKey,', '{ foreignKey, index,')
        .replace('primaryKey({', "index('posts_title_idx').on(t.title), primaryKey({"),
    )
    const plain = await generate({ cwd, name: 'plain', harden: false })
    expect(plain?.statements).toEqual([
      'CREATE INDEX "posts_title_idx" ON "app"."posts" ("title");',
    ])
    expect(plain?.advice).toMatchObject([{ effect: 'locks', table: 'app.posts', waits: 'writes' }])
    await rm(join(cwd, 'migrations', plain?.name ?? ''), { recursive: true })
    const hardened = await generate({ cwd, name: 'hardened' })
    expect(hardened?.statements).toEqual([
      '-- plinth: concurrently\nCREATE INDEX "posts_title_idx" ON "app"."posts" ("title");',
    ])
    expect(hardened?.advice).toEqual([])
  }, 60_000)
})

describe('a config', () => {
  const write = async (config: string, cwd = '') => {
    const folder = cwd || (await mkdtemp(join(tmpdir(), 'plinth-config-')))
    if (!cwd) folders.push(folder)
    await writeFile(join(folder, 'drizzle.config.ts'), config)
    return folder
  }

  test.each([
    ['of another database', `export default { dialect: 'mysql', schema: 'a.ts' }`, /'postgresql'/],
    ['without a schema', `export default { dialect: 'postgresql' }`, /names no schema/],
    [
      'of files that are not there',
      `export default { dialect: 'postgresql', schema: 'a/*.ts' }`,
      /no file is there/,
    ],
    ['that throws', `throw new Error('no way')`, /cannot be loaded: no way/],
  ])('%s is refused, with the way out', async (_, config, message) => {
    const cwd = await write(config)
    await expect(loadProject({ cwd })).rejects.toThrow(MigrationError)
    await expect(loadProject({ cwd })).rejects.toThrow(message)
  })

  test('that is missing is refused', async () => {
    const cwd = await mkdtemp(join(tmpdir(), 'plinth-config-'))
    folders.push(cwd)
    await expect(loadProject({ cwd })).rejects.toThrow(/no drizzle\.config\.ts/)
    await expect(loadProject({ cwd, config: 'x.ts' })).rejects.toThrow(/--config/)
  })

  test('of this package is found, with all its objects in order', async () => {
    const project = await loadProject({ cwd: process.cwd() })
    expect(project.source).toBe(plinthSource)
    expect(project.objects.map(({ name }) => name)).toEqual(managedObjects.map(({ name }) => name))
  })
})

describe('collectObjects', () => {
  const [a, b] = [managedSchema('a'), managedSchema('b')]

  test('takes objects alone and in arrays, each once, in the order of the longest list', () => {
    expect(collectObjects([a, [b, a], 1, null, 'x', { name: 'no' }])).toEqual([b, a])
  })

  test('refuses two of one name', () => {
    const other: ManagedObject = Object.assign(managedSchema('a'), { create: 'create schema x' })
    expect(() => collectObjects([a, other])).toThrow(/schema a/)
  })
})

describe('the migrations of plinth', () => {
  const declared = async () => ({
    ddl: await stateOfExports({ ...schema }),
    objects: managedObjects,
  })

  test('lead to what is declared', async () => {
    const { up, down } = await planMigration(await readState(migrationsFolder), await declared())
    expect([...up, ...down]).toEqual([])
  })

  test('hold every managed object as it is declared', async () => {
    const plain = (objects: readonly ManagedObject[]) => JSON.parse(JSON.stringify(objects))
    expect(plain((await readState(migrationsFolder)).objects)).toEqual(plain(managedObjects))
  })

  test('come each with what undoes it', async () => {
    const undone = (await readMigrations([plinthSource])).map(({ down }) => down?.length ?? 0)
    expect(undone.length).toBeGreaterThan(1)
    expect(Math.min(...undone)).toBeGreaterThan(0)
  })

  test('give every managed object a name of its own', () => {
    const names = managedObjects.map(({ name }) => name)
    expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([])
  })

  test('are what drizzle-kit would generate: it finds nothing to do', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'plinth-generate-'))
    folders.push(folder)
    const out = join(folder, 'drizzle')
    await cp(migrationsFolder, out, { recursive: true })
    const had = await readdir(out)
    const { stdout } = await run('npx', [
      'drizzle-kit',
      'generate',
      '--dialect=postgresql',
      '--schema=./src/schema/index.ts',
      `--out=${out}`,
    ])
    expect(stdout).toMatch(/no schema changes|nothing to migrate/i)
    expect(await readdir(out)).toEqual(had)
  }, 60_000)

  test('separate all statements, since PGlite takes one at a time', async () => {
    for (const name of await migrationNames(migrationsFolder)) {
      for (const file of ['migration.sql', 'down.sql']) {
        const text = await readFile(join(migrationsFolder, name, file), 'utf8')
        for (const statement of statementsOf(text)) {
          const outside = statement.replace(/\$(\w*)\$[\s\S]*?\$\1\$|'(?:[^']|'')*'|--.*/g, '')
          expect(outside.trim().replace(/;$/, '')).not.toContain(';')
        }
      }
    }
  })
})
