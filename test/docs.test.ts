import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { dataDictionary } from '../scripts/docs.ts'
import { createTestDatabase } from '../src/testing/database.ts'

test('the data dictionary is that of the migrated database', async () => {
  const { db, close } = await createTestDatabase()
  const generated = await dataDictionary(db)
  await close()

  expect(await readFile('docs/data-dictionary.md', 'utf8')).toBe(generated)
})
