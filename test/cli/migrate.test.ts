import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { plinthSource, readMigrations } from '../../src/migrations/folder.ts'
import { makeScratch } from '../support/scratch.ts'

// Inside the repository, where the schema files find the packages that they import.
const place = resolve('node_modules/.cache')
let cwd: string
let database: string[]

const schema = (title: string, more = '') => `
import { sql } from 'drizzle-orm'
import { bigint, foreignKey, index, integer, pgSchema, primaryKey, text, uuid } from 'drizzle-orm/pg-core'
import { organizations } from '${pathToFileURL(resolve('src/schema/identity.ts')).href.slice(7)}'
import { shared, tenantPolicies } from '${resolve('src/schema/policies.ts')}'
import { managedGrant } from '${resolve('src/schema/managed.ts')}'

export const app = pgSchema('app')
export const posts = app.table.withRLS('posts', {
  organizationId: uuid('organization_id').notNull(),
  id: uuid('id').notNull(),
  ${title},
}, (t) => [
  primaryKey({ name: 'posts_pkey', columns: [t.organizationId, t.id] }),
  foreignKey({ name: 'posts_organization_id_fkey', columns: [t.organizationId], foreignColumns: [organizations.id] }),
  ...tenantPolicies('posts', t.organizationId, shared()),
  ${more}
])
export const rights = [
  managedGrant('usage on app', sql\`grant usage on schema app to plinth_app\`),
  managedGrant('app.posts', sql\`grant select, insert, update, delete on \${posts} to plinth_app\`),
]
`

const declare = (title: string, more?: string) =>
  writeFile(join(cwd, 'db', 'schema.ts'), schema(title, more))

interface Result {
  code: number | null
  out: string
  err: string
}

function plinth(...args: string[]): Promise<Result> {
  const child = spawn(
    process.execPath,
    ['--import', import.meta.resolve('tsx'), resolve('src/cli/main.ts'), ...args],
    { cwd, env: { ...process.env, NO_COLOR: '1' } },
  )
  let [out, err] = ['', '']
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  child.stderr.on('data', (chunk) => {
    err += chunk
  })
  return new Promise((settle) => child.on('close', (code) => settle({ code, out, err })))
}

const migrate = (...args: string[]) => plinth('migrate', ...args, ...database)

/** How many migrations plinth has itself. */
const own = (await readMigrations([plinthSource])).length

const migrations = async () => (await readdir(join(cwd, 'drizzle'))).sort()

beforeAll(async () => {
  await mkdir(place, { recursive: true })
  cwd = await mkdtemp(join(place, 'project-'))
  await mkdir(join(cwd, 'db'))
  await writeFile(join(cwd, 'package.json'), '{ "name": "acme", "type": "module" }')
  await writeFile(
    join(cwd, 'drizzle.config.ts'),
    `export default { dialect: 'postgresql', schema: './db/schema.ts', out: './drizzle' }`,
  )
  const { url } = await makeScratch()
  database = url ? ['--url', url] : ['--data', join(cwd, 'data')]
})
afterAll(() => rm(cwd, { recursive: true, force: true }))

// Each step goes on from the one before, as a project does.
describe('the migrations of a project', () => {
  test('are generated, applied beside plinth’s, and listed', async () => {
    await declare("title: text('title').notNull()")
    const made = await plinth('generate', 'first')
    expect(made).toMatchObject({ code: 0, err: '' })
    expect(made.out).toContain('CREATE TABLE "app"."posts"')
    expect(made.out).toMatch(/wrote drizzle\/\d{14}_first: migration\.sql, down\.sql/)
    expect(await plinth('generate')).toMatchObject({ code: 0, out: 'nothing to generate\n' })

    const pending = await migrate('status', '--json')
    expect(JSON.parse(pending.out).migrations.map(({ state }: { state: string }) => state)).toEqual(
      Array.from({ length: own + 1 }, () => 'pending'),
    )
    expect(await migrate('status', '--check')).toMatchObject({ code: 1, err: '' })

    const dry = await migrate('up', '--dry-run')
    expect(dry.code).toBe(0)
    expect(dry.out).toContain('CREATE TABLE "app"."posts"')
    const applied = await migrate()
    expect(applied).toMatchObject({ code: 0, out: `${own + 1} applied\n` })
    expect(applied.err).toMatch(/applied \d{14}_init\n.*applied \d{14}_first\n/s)

    const status = await migrate('status', '--check')
    expect(status.code).toBe(0)
    expect(status.out).toMatch(/1 │ \d{14}_init +│ plinth │ applied/)
    expect(status.out).toMatch(new RegExp(`${own + 1} │ \\d{14}_first +│ acme +│ applied`))
    expect(status.out).toContain(`${own + 1} applied`)
  }, 120_000)

  test('are what TypeScript declares, and a difference has its mend', async () => {
    expect(await migrate('verify')).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^the database is as declared\nexpected: 14 partitions of/),
    })
    await declare("title: text('title')")
    const different = await migrate('verify')
    expect(different.code).toBe(1)
    expect(different.out).toContain('not null app.posts.title is not declared')
    expect(different.out).toContain('alter table app.posts alter column title drop not null;')
    const json = JSON.parse((await migrate('verify', '--json')).out)
    expect(json.equal).toBe(false)
    expect((await migrate('verify', '--against', 'migrations')).code).toBe(0)
  }, 120_000)

  test('of a rename are asked about, in words that can be copied', async () => {
    await declare(
      "headline: text('headline').notNull()",
      "index('posts_headline_idx').on(t.organizationId, t.headline),",
    )
    const open = await plinth('generate', 'second')
    expect(open.code).toBe(2)
    expect(open.out).toContain('--rename app.posts.title=app.posts.headline')
    expect(await migrations()).toHaveLength(1)
    const made = await plinth(
      'generate',
      'second',
      '--rename',
      'app.posts.title=app.posts.headline',
    )
    expect(made).toMatchObject({ code: 0 })
    expect(made.out).toContain('! statement 1 code that still says title instead of headline fails')
    const [, second = ''] = await migrations()
    expect(await readFile(join(cwd, 'drizzle', second, 'migration.sql'), 'utf8')).toContain(
      '-- plinth: concurrently\nCREATE INDEX "posts_headline_idx"',
    )
    expect(await migrate('up', '--json')).toMatchObject({
      code: 0,
      out: `${JSON.stringify({ applied: [second] })}\n`,
    })
  }, 120_000)

  test('go back and forth', async () => {
    const dry = await migrate('down', '--dry-run')
    expect(dry.out).toContain('DROP INDEX "app"."posts_headline_idx"')
    expect(await migrate('down')).toMatchObject({ code: 0, out: '1 reverted\n' })
    expect(await migrate('to', 'second')).toMatchObject({ code: 0, out: '0 reverted, 1 applied\n' })
    expect(await migrate('to', 'init')).toMatchObject({
      code: 0,
      out: `${own + 1} reverted, 0 applied\n`,
    })
    expect(await migrate('to', 'nothing')).toMatchObject({
      code: 0,
      out: '1 reverted, 0 applied\n',
    })
    expect(await migrate()).toMatchObject({ code: 0, out: `${own + 2} applied\n` })
  }, 120_000)

  test('that were edited are refused, with the difference on lines of its own', async () => {
    const [, second = ''] = await migrations()
    const file = join(cwd, 'drizzle', second, 'migration.sql')
    const text = await readFile(file, 'utf8')
    await writeFile(file, text.replace('posts_headline_idx', 'posts_title_idx'))
    const refused = await migrate()
    expect(refused.code).toBe(1)
    expect(refused.err).toContain('was edited after it was applied')
    expect(refused.err).toMatch(/\n-CREATE INDEX "posts_headline_idx"/)
    expect(refused.err).toMatch(/\n\+CREATE INDEX "posts_title_idx"/)
    expect((await migrate('status')).code).toBe(1)
    await writeFile(file, text)
    expect((await migrate('status')).code).toBe(0)
  }, 120_000)

  test('are written by hand, of SQL and of rows', async () => {
    const sqlMigration = await plinth('migrate', 'create', 'by_hand')
    expect(sqlMigration.out).toMatch(/write it into drizzle\/\d{14}_by_hand\/migration\.sql/)
    const elsewhere = await plinth('migrate', 'create', '../elsewhere')
    expect(elsewhere).toMatchObject({ code: 2 })
    expect(elsewhere.err).toContain('name must be of letters')
    // drizzle-kit stamps by the second.
    await new Promise((settle) => setTimeout(settle, 1_100))
    const made = await plinth('migrate', 'create', 'slugs', '--ts', '--json')
    const { path } = JSON.parse(made.out)
    expect(path).toMatch(/^drizzle\/\d{14}_slugs\/migration\.ts$/)
    const text = await readFile(join(cwd, path), 'utf8')
    await writeFile(
      join(cwd, path),
      text
        .replace("'plinth/migrations'", `'${resolve('src/migrations/data.ts')}'`)
        .replace("key: 'id'", '')
        .replaceAll('slug', 'headline')
        .replace("columns: ['id', 'title']", "columns: ['id', 'headline']")
        .replace('headline is null', "headline = ''"),
    )
    const byHand = sqlMigration.out.match(/\d{14}_by_hand/)?.[0] ?? ''
    const file = join(cwd, 'drizzle', byHand, 'migration.sql')
    // Below what it says already.
    await writeFile(file, `${await readFile(file, 'utf8')}create table app.extra (id int);`)
    expect(await migrate()).toMatchObject({ code: 0, out: '2 applied\n', err: expect.any(String) })
    expect((await plinth('generate')).out).toBe('nothing to generate\n')
    expect(await migrate('down')).toMatchObject({ code: 0, out: '1 reverted\n' })
    expect(await migrate('down')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/_by_hand cannot be reverted/),
    })
  }, 120_000)

  test('are audited as a whole', async () => {
    const audit = await plinth('migrate', 'audit')
    expect(audit.code).toBe(0)
    expect(audit.out).toMatch(/^# Audit of the migrations\n\n0 errors/)
    expect(audit.out).toContain('| down-missing |')
    const json = JSON.parse((await migrate('audit', '--json', '--database')).out)
    expect(json.length).toBeGreaterThan(0)
    expect((await plinth('migrate', 'audit', '--fail-on', 'warning')).code).toBe(1)
    expect((await plinth('migrate', 'audit', '--folder', 'nowhere')).code).toBe(1)
  }, 120_000)
})

describe('plinth migrate', () => {
  test.each([
    [['sideways'], 2, /unknown command|too many arguments/],
    [['down', 'many'], 2, /write a whole number/],
    [['up', '--lock-timeout', 'long'], 2, /write whole milliseconds/],
    [['up', '--config', 'other.ts'], 1, /other\.ts does not exist/],
    [['to', 'nowhere'], 1, /no migration is called nowhere/],
    [['baseline', '--legacy-table', 'a', '--legacy-files', 'b'], 2, /cannot be used with/],
  ])(
    '%j exits with %i and says why',
    async (args, code, message) => {
      const result = await migrate(...args)
      expect(result.code).toBe(code)
      expect(result.err).toMatch(message)
    },
    60_000,
  )
})
