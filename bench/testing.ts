import { createTestDatabase } from '../src/testing/database.ts'
import { makeScope } from '../src/testing/factories.ts'
import { type Measurement, median, printTable } from './support.ts'

const ROUNDS = 12

/** S17: what a test waits for a clean database. */
export async function testing(): Promise<void> {
  const times: Record<string, number[]> = {}
  const time = async <T>(name: string, run: () => Promise<T>): Promise<T> => {
    const start = performance.now()
    const result = await run()
    times[name] = [...(times[name] ?? []), performance.now() - start]
    return result
  }
  const first = await time('the first of a process: PGlite from nothing, and migrations', () =>
    createTestDatabase(),
  )
  for (let round = 0; round < ROUNDS; round += 1) {
    const own = await time('an instance of its own, from the snapshot', () => createTestDatabase())
    await own.close()
    await makeScope(first.db)
    await time('reset', () => first.reset())
    await time('rollback, with nothing in it', () => first.rollback(async () => {}))
  }
  await first.close()
  const measurements: Measurement[] = Object.entries(times).map(([name, values]) => ({
    name,
    medianMs: median(values),
  }))
  printTable('S17: a clean database for a test', measurements)
}
