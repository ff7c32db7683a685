import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { afterAll, describe, test } from 'vitest'
import { type Connection, connect, type Database } from '../../src/database.ts'
import { harden } from '../../src/migrations/advice/harden.ts'
import { knownAfter } from '../../src/migrations/advice/replay.ts'
import { EMPTY, planMigration } from '../../src/migrations/generate/plan.ts'
import { openScratch, provePlan } from '../../src/migrations/generate/prove.ts'
import { adminUrl } from '../support/database.ts'
import { models, stateOf } from '../support/models.ts'

/** More of them, as `PLINTH_FUZZ_RUNS=500`; the same ones again with `PLINTH_FUZZ_SEED`. */
const numRuns = Number(process.env.PLINTH_FUZZ_RUNS ?? 30)
const seed = Number(process.env.PLINTH_FUZZ_SEED ?? Date.now() % 2 ** 31)

const engines: [string, Connection][] = [['PGlite', await openScratch({ withPlinth: false })]]
if (adminUrl) engines.push(['a server', await connect(adminUrl, { maxConnections: 1 })])
for (const [, db] of engines) {
  await db.execute(
    sql`do $$ begin create role plinth_fuzz nologin; exception when duplicate_object then null; end $$`,
  )
}
afterAll(async () => {
  for (const [, db] of engines) await db.close()
})

describe.each(engines)('on %s', (_, db: Database) => {
  test(`any schema becomes any other one, and comes back (seed ${seed})`, async () => {
    await fc.assert(
      fc.asyncProperty(models(), models(), async (a, b) => {
        const [prev, next] = [await stateOf(a), await stateOf(b)]
        const plan = await planMigration(prev, next, { isNothingRenamed: true })
        await provePlan(db, { prev, plan })
        // What is written is the form that keeps nobody waiting.
        const { up: texts } = await planMigration(EMPTY, prev)
        const known = await knownAfter([{ name: 'before', texts }])
        const up = await harden(plan.up, { known })
        if (up.join() !== plan.up.join()) await provePlan(db, { prev, plan: { ...plan, up } })
      }),
      { numRuns, seed, endOnFailure: false },
    )
  }, 3_600_000)
})
