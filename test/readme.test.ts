import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'

test('the example of the README is the one that is compiled, and it runs', async () => {
  const [readme, example] = await Promise.all(
    ['README.md', 'examples/quickstart.ts'].map((file) => readFile(file, 'utf8')),
  )
  expect(readme).toContain(`\`\`\`ts\n${example}\`\`\``)

  const folder = await mkdtemp(join(tmpdir(), 'plinth-'))
  const home = process.cwd()
  const log = vi.spyOn(console, 'log').mockImplementation(() => {})
  try {
    // It opens .plinth in the working directory.
    process.chdir(folder)
    await import('../examples/quickstart.ts')
  } finally {
    process.chdir(home)
    await rm(folder, { recursive: true })
  }
  expect(log).toHaveBeenCalledWith('Invoices are paid in ten days.', expect.any(Number))
})
