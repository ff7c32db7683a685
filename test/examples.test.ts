import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'

const EXAMPLES: Record<string, unknown[]> = {
  budgets: ['In ten days.', 3_060_000n, true, ['day'], 1, { expired: 0, purged: 0 }],
  offloading: ['Invoices are paid in ten days.', 'store', '', 1, true],
  ops: [
    ...[true, 0, 18, false, { value: { chargeId: 1 }, replayed: true }, [3], true],
    { idempotencyKeys: 0, locks: 0, rateLimits: 0 },
  ],
  integrations: [3, 'In ten days.', 'Invoices are paid in ten days.', 2],
}

/** Those that are in the guide of another name. */
const GUIDES: Record<string, string> = { budgets: 'costs' }

test.each(Object.entries(EXAMPLES))(
  'the example of %s is the one that is compiled, and it runs',
  async (name, printed) => {
    const [guide, example] = await Promise.all(
      [`docs/${GUIDES[name] ?? name}.md`, `examples/${name}.ts`].map((file) =>
        readFile(file, 'utf8'),
      ),
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
