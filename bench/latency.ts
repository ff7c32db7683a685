import { eq } from 'drizzle-orm'
import { pgSchema, text, uuid } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { openPool } from '../src/pool.ts'
import { type MeasureOptions, measureAll, printTable, withDelayProxy } from './support.ts'

const ROWS = 10_000
/** Connections of each candidate, used in turn: where the system places its process makes one 1.7 times slower than another. */
const LANES = 12
const schema = pgSchema('bench_latency')
const items = schema.table('items', { id: uuid().primaryKey(), content: text().notNull() })

/**
 * S1 and S2: a typed Drizzle query by primary key through plinth's pool, against postgres.js by itself with prepared
 * statements, and against Drizzle on postgres.js as both come; at 2 ms (S1) and on loopback (S2).
 */
export async function latency(url: string): Promise<void> {
  const admin = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await admin`drop schema if exists bench_latency cascade`
    await admin`create schema bench_latency`
    await admin`create table bench_latency.items (id uuid primary key, content text not null)`
    const ids = await admin<{ id: string }[]>`
      insert into bench_latency.items select gen_random_uuid(), repeat('x', 200)
      from generate_series(1, ${ROWS}) returning id`
    await admin`analyze bench_latency.items`
    const keys = ids.map(({ id }) => id)
    await withDelayProxy(url, 2, (slow) => compare('S1: +2 ms', slow, keys, { rounds: 300 }))
    await compare('S2: loopback', url, keys, { warmup: 3_000, rounds: 5_000 })
  } finally {
    await admin`drop schema if exists bench_latency cascade`
    await admin.end()
  }
}

async function compare(
  title: string,
  url: string,
  keys: readonly string[],
  options: MeasureOptions,
): Promise<void> {
  const lanes = Array.from({ length: LANES }, () => {
    const [raw, stock] = [postgres(url, { max: 1 }), postgres(url, { max: 1 })]
    const pool = openPool(url, { maxConnections: 1 })
    const [onPool, onStock] = [drizzle({ client: pool.client }), drizzle({ client: stock })]
    return {
      raw,
      onPool,
      onStock,
      close: () => Promise.all([raw.end(), stock.end(), pool.close()]),
    }
  })
  const turn = <T>(values: readonly T[]) => {
    let calls = 0
    return () => {
      calls += 1
      return values[calls % values.length] as T
    }
  }
  const key = turn(keys)
  const [raw, onPool, onStock] = [turn(lanes), turn(lanes), turn(lanes)]
  const select = (db: (typeof lanes)[number]['onPool']) =>
    db.select().from(items).where(eq(items.id, key()))
  try {
    const measurements = await measureAll(
      {
        'postgres.js, prepared': () =>
          raw().raw`select id, content from bench_latency.items where id = ${key()}`,
        'Drizzle on plinth': () => select(onPool().onPool),
        'Drizzle on postgres.js': () => select(onStock().onStock),
      },
      options,
    )
    printTable(title, measurements)
  } finally {
    await Promise.all(lanes.map((lane) => lane.close()))
  }
}
