import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database, rowsOf } from '../../src/database.ts'
import { harden } from '../../src/migrations/advice/harden.ts'
import { knownAfter } from '../../src/migrations/advice/replay.ts'
import { EMPTY, planMigration } from '../../src/migrations/generate/plan.ts'
import { openScratch, provePlan } from '../../src/migrations/generate/prove.ts'
import { adminUrl } from '../support/database.ts'
import { type Fillable, models, stateOf, withOtherNames } from '../support/models.ts'

/** More of them, as `PLINTH_FUZZ_RUNS=500`. */
const numRuns = Number(process.env.PLINTH_FUZZ_RUNS ?? 30)

const database = `plinth_fuzz_${process.pid}`
const server = adminUrl ? await connect(adminUrl, { maxConnections: 1 }) : undefined

async function openServer(url: string): Promise<Connection> {
  await server?.execute(sql.raw(`create database ${database}`))
  const mine = new URL(url)
  mine.pathname = `/${database}`
  return connect(mine.href, { maxConnections: 1 })
}

const engines: [string, Connection][] = [['PGlite', await openScratch({ withPlinth: false })]]
if (adminUrl) engines.push(['a server', await openServer(adminUrl)])
for (const [, db] of engines) {
  await db.execute(
    sql`do $$ begin create role plinth_fuzz nologin; exception when duplicate_object then null; end $$`,
  )
}

afterAll(async () => {
  for (const [, db] of engines) await db.close()
  await server?.execute(sql.raw(`drop database ${database} with (force)`))
  await server?.close()
})

/** Takes back all that a run has made. */
class Done extends Error {}

const apply = async (tx: Database, statements: readonly string[]) => {
  for (const statement of statements) await tx.execute(sql.raw(statement))
}

/** The values of what two schemas have in common, as text. */
const contents = async (tx: Database, tables: readonly Fillable[]) => {
  const found: Record<string, unknown[]> = {}
  for (const { name, columns } of tables) {
    const list = columns.map((column) => `"${column}"::text::numeric::text as "${column}"`)
    found[name] = await rowsOf(tx, sql.raw(`select ${list.join(', ')} from ${name} order by id`))
  }
  return found
}

const common = (a: readonly Fillable[], b: readonly Fillable[]): Fillable[] =>
  a.flatMap(({ name, columns }) => {
    const other = b.find((table) => table.name === name)
    return other ? [{ name, columns: columns.filter((it) => other.columns.includes(it)) }] : []
  })

describe.each(engines)('on %s', (_, db: Database) => {
  test('any schema becomes any other one, and comes back', async () => {
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
      { numRuns },
    )
  }, 3_600_000)

  test('any schema takes other names, and its own again', async () => {
    await fc.assert(
      fc.asyncProperty(models(), async (a) => {
        const { model: b, renames } = withOtherNames(a)
        const [prev, next] = [await stateOf(a), await stateOf(b)]
        const plan = await planMigration(prev, next, { renames })
        await provePlan(db, { prev, plan })
        const lost = [...plan.up, ...plan.down].filter((it) =>
          /DROP (TABLE|COLUMN "[a-f])/.test(it),
        )
        expect(lost).toEqual([])
      }),
      { numRuns },
    )
  }, 3_600_000)

  test('the rows of what stays are kept, both ways', async () => {
    const lossless = models({ isLossless: true })
    await fc.assert(
      fc.asyncProperty(lossless, lossless, async (a, b) => {
        const [prev, next] = [await stateOf(a), await stateOf(b)]
        const plan = await planMigration(prev, next, { isNothingRenamed: true })
        const kept = common(prev.tables, next.tables)
        const run = db.transaction(async (tx) => {
          await tx.execute(sql`set local search_path = public`)
          await apply(tx, (await planMigration(EMPTY, prev)).up)
          for (const { name } of prev.tables) {
            await tx.execute(sql.raw(`insert into ${name} (id) values (1), (2)`))
          }
          const before = await contents(tx, kept)
          await apply(tx, plan.up)
          expect(await contents(tx, kept)).toEqual(before)
          await apply(tx, plan.down)
          expect(await contents(tx, kept)).toEqual(before)
          throw new Done()
        })
        await run.catch((error) => {
          if (!(error instanceof Done)) throw error
        })
      }),
      { numRuns },
    )
  }, 3_600_000)
})
