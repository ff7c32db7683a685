import { execFile } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { MigrationError } from '../../src/errors.ts'
import { migrationsFolder } from '../../src/migrations/folder.ts'
import { changedObjects, readMigrations, splice } from '../../src/migrations/generate.ts'
import type { ManagedObject } from '../../src/schema/managed.ts'
import { managedObjects } from '../../src/schema/objects.ts'

const before: ManagedObject = { name: 'role a', phase: 'before', create: 'create role a' }
const within: ManagedObject = {
  name: 'partitioning "s"."logs"',
  phase: 'within',
  table: '"s"."logs"',
  create: 'partition by range ("at")',
}
const after: ManagedObject = {
  name: 'function s.f()',
  phase: 'after',
  create: 'create or replace function s.f() returns void language plpgsql as $$ begin end; $$',
}
const objects = [before, within, after]

const logs = 'CREATE TABLE "s"."logs" (\n\t"at" timestamptz\n);'
const other = 'CREATE TABLE "s"."other" (\n\t"at" timestamptz\n);'
const lines = (...statements: string[]) => `${statements.join('\n--> statement-breakpoint\n')}\n`

describe('splice', () => {
  test('puts what tables need before them, and what needs tables after', () => {
    expect(splice(lines(other), [after, before])).toBe(
      lines(
        '-- managed: role a\ncreate role a;',
        other,
        `-- managed: function s.f()\n${after.create};`,
      ),
    )
  })

  test('keeps the order of what is declared', () => {
    const second = { ...after, name: 'function s.g()' }
    const titles = (text: string) =>
      [...text.matchAll(/^-- managed: (.*)$/gm)].map(([, name]) => name)
    expect(titles(splice('', [second, before, after]))).toEqual([
      'role a',
      'function s.g()',
      'function s.f()',
    ])
  })

  test('puts a partitioning into the CREATE TABLE of its table, and no other', () => {
    expect(splice(lines(logs, other), [within])).toBe(
      lines(
        '-- managed: partitioning "s"."logs"\nCREATE TABLE "s"."logs" (\n\t"at" timestamptz\n) partition by range ("at");',
        other,
      ),
    )
  })

  test.each([
    ['without a CREATE TABLE', other],
    ['with two of them', lines(logs, logs)],
    ['with a table whose name only begins so', logs.replace('"logs"', '"logs_old"')],
    ['with a CREATE TABLE of another form', logs.replace('\n);', '\n) WITH (fillfactor=70);')],
  ])('refuses a partitioning %s', (_, generated) => {
    expect(() => splice(generated, [within])).toThrow(MigrationError)
  })

  test('is current for changedObjects at once', () => {
    expect(changedObjects(objects, [splice(lines(logs, other), objects)])).toEqual([])
  })
})

describe('changedObjects', () => {
  const migrated = splice(lines(logs), objects)

  test('without migrations is everything', () => {
    expect(changedObjects(objects, [])).toEqual(objects)
  })

  test('is what changed, and what is new', () => {
    const changed = { ...after, create: after.create.replace('void', 'integer') }
    const added = { ...after, name: 'function s.g()' }
    expect(changedObjects([before, within, changed, added], [migrated])).toEqual([changed, added])
  })

  test('compares with the latest migration, so that a change back is a change', () => {
    const changed = { ...after, create: after.create.replace('void', 'integer') }
    const later = splice('', [changed])
    expect(changedObjects([before, within, changed], [migrated, later])).toEqual([])
    expect(changedObjects(objects, [migrated, later])).toEqual([after])
  })

  test('refuses an object that is no longer declared, and says how to drop it', () => {
    const remove = () => changedObjects([before, within], [migrated])
    expect(remove).toThrow(MigrationError)
    expect(remove).toThrow('-- managed: dropped function s.f()')
  })

  test('honours the line that a custom migration drops it with', () => {
    const dropped = '-- managed: dropped function s.f()\ndrop function s.f();\n'
    expect(changedObjects([before, within], [migrated, dropped])).toEqual([])
    expect(
      changedObjects(objects, [migrated, dropped]),
      'and declared once more, it is new',
    ).toEqual([after])
  })

  test('refuses a partitioning that has changed, which Postgres cannot do in place', () => {
    const changed = { ...within, create: 'partition by list ("at")' }
    expect(() => changedObjects([before, changed, after], [migrated])).toThrow(MigrationError)
  })

  test('sees a migration that was edited by hand', () => {
    const edited = migrated.replace('returns void', 'returns text')
    expect(changedObjects(objects, [edited])).toEqual([after])
  })
})

describe('the migrations of plinth', () => {
  test('hold every managed object as it is declared', async () => {
    const due = changedObjects(managedObjects, await readMigrations(migrationsFolder))
    expect(due.map(({ name }) => name)).toEqual([])
  })

  test('give every managed object a name of its own', () => {
    const names = managedObjects.map(({ name }) => name)
    expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([])
  })

  test('are what drizzle-kit would generate: it finds nothing to do', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'plinth-generate-'))
    try {
      const out = join(folder, 'drizzle')
      await cp(migrationsFolder, out, { recursive: true })
      const had = await readdir(out)
      const { stdout } = await promisify(execFile)('npx', [
        'drizzle-kit',
        'generate',
        '--dialect=postgresql',
        '--schema=./src/schema/index.ts',
        `--out=${out}`,
      ])
      expect(stdout).toMatch(/no schema changes|nothing to migrate/i)
      expect(await readdir(out)).toEqual(had)
    } finally {
      await rm(folder, { recursive: true })
    }
  }, 60_000)

  test('separate all statements, since PGlite takes one at a time', async () => {
    for (const migration of await readMigrations(migrationsFolder)) {
      for (const statement of migration.split('--> statement-breakpoint')) {
        const outside = statement.replace(/\$(\w*)\$[\s\S]*?\$\1\$|'(?:[^']|'')*'|--.*/g, '')
        expect(outside.trim().replace(/;$/, '')).not.toContain(';')
      }
    }
  })

  test('come each with the snapshot that the next one is compared with', async () => {
    for (const name of await readdir(migrationsFolder)) {
      expect(await readFile(join(migrationsFolder, name, 'snapshot.json'), 'utf8')).toContain(
        '"version"',
      )
    }
  })
})
