import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate as drizzleMigrate } from 'drizzle-orm/postgres-js/migrator'
import postgres from 'postgres'
import { connect } from '../src/database.ts'
import { migrate } from '../src/migrations/apply.ts'
import { verify } from '../src/migrations/catalog/verify.ts'
import { migrationsFolder } from '../src/migrations/folder.ts'
import { migrationStatus } from '../src/migrations/status.ts'
import { median, printTable } from './support.ts'

const ROUNDS = 7

/** Migrating a new database and an up-to-date one, beside drizzle's own `migrate()`; and comparing catalogs. */
export async function migrations(url: string): Promise<void> {
  const server = postgres(url, { max: 1, onnotice: () => {} })
  const times = new Map<string, number[]>()
  const time = async (name: string, run: () => Promise<unknown>) => {
    const start = performance.now()
    await run()
    times.set(name, [...(times.get(name) ?? []), performance.now() - start])
  }
  const inNew = async (round: number, work: (url: string) => Promise<void>) => {
    const name = `plinth_bench_${process.pid}_${round}`
    await server.unsafe(`create database ${name}`)
    await work(Object.assign(new URL(url), { pathname: `/${name}` }).href).finally(() =>
      server.unsafe(`drop database ${name} with (force)`),
    )
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    await inNew(round, async (at) => {
      const client = postgres(at, { max: 1, onnotice: () => {} })
      const db = drizzle({ client })
      await client`select 1`
      await time('drizzle: all of the folder', () => drizzleMigrate(db, { migrationsFolder }))
      await time('drizzle: nothing to do', () => drizzleMigrate(db, { migrationsFolder }))
      await client.end()
    })
    await inNew(round, async (at) => {
      const db = await connect(at, { maxConnections: 2 })
      await db.execute('select 1')
      await time('plinth: all of the folder', () => migrate(db))
      await time('plinth: nothing to do', () => migrate(db))
      await time('plinth: status', () => migrationStatus(db))
      const build = async (scratch: Parameters<typeof migrate>[0]) => {
        await migrate(scratch)
      }
      await time('plinth: verify, scratch database and all', () => verify(db, { url: at, build }))
      await db.close()
    })
  }
  await server.end()
  const rows = (...names: string[]) =>
    names.map((name) => ({ name, medianMs: median(times.get(name) ?? []) }))
  printTable(
    'migrating a new database',
    rows(
      'drizzle: all of the folder',
      'plinth: all of the folder',
      'plinth: verify, scratch database and all',
    ),
  )
  printTable(
    'migrating an up-to-date one',
    rows('drizzle: nothing to do', 'plinth: nothing to do', 'plinth: status'),
  )
}
