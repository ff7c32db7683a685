import { rename, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { MigrationError } from '../../src/errors.ts'
import { readMigrations } from '../../src/migrations/folder.ts'
import { makeSource } from '../support/scratch.ts'

describe('a folder of migrations', () => {
  test('may hold links to where they are', async () => {
    const source = await makeSource({ first: 'select 1;', second: 'select 2;' })
    const elsewhere = await makeSource({})
    const name = '20260101000001_second'
    await rename(join(source.folder, name), join(elsewhere.folder, name))
    await symlink(join(elsewhere.folder, name), join(source.folder, name))
    const migrations = await readMigrations([source])
    expect(migrations.map((migration) => migration.name)).toEqual(['20260101000000_first', name])
  })

  test.each([
    ['Latin-1', Buffer.from("select 'caf\xE9';", 'latin1')],
    ['a NUL', Buffer.from('create table public.b ();\0create table public.c ();')],
  ])('with %s in a file is refused, and none of it is lost on the way', async (_, bytes) => {
    const source = await makeSource({ first: 'select 1;' })
    const file = join(source.folder, '20260101000000_first', 'migration.sql')
    await writeFile(file, bytes)
    const failed = readMigrations([source])
    await expect(failed).rejects.toThrow(`${file} is not UTF-8`)
    await expect(failed).rejects.toBeInstanceOf(MigrationError)
  })
})
