import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'

const EXAMPLES = {
  offloading: ['Invoices are paid in ten days.', 'store', '', 1, true],
  ops: [
    ...[true, 0, 18, false, { value: { chargeId: 1 }, replayed: true }, [3], true],
    { idempotencyKeys: 0, locks: 0, rateLimits: 0 },
  ],
  integrations: [3, 'In ten days.', 'Invoices are paid in ten days.', 2],
}

test.each(Object.entries(EXAMPLES))(
  'the example of docs/%s.md is the one that is compiled, and it runs',
  async (name, printed) => {
    const [guide, example] = await Promise.all(
      [`docs/${name}.md`, `examples/${name}.ts`].map((file) => readFile(file, 'utf8')),
    )
    expect(guide).toContain(`\`\`\`ts\n${example}\`\`\``)

    const folder = await mkdtemp(join(tmpdir(), 'plinth-'))
    const home = process.cwd()
    const log = vi.spyOn(console, 'log').mockImplementation(() => {})
    try {
      // They keep their files in the working directory.
      process.chdir(folder)
      await import(join(home, 'examples', `${name}.ts`))
      expect(log).toHaveBeenCalledWith(...printed)
    } finally {
      log.mockRestore()
      process.chdir(home)
      await rm(folder, { recursive: true })
    }
  },
)
