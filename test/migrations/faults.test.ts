import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'
import { catalogOf } from '../../src/migrations/catalog/catalog.ts'
import type { MigrationSource } from '../../src/migrations/folder.ts'
import { type Cluster, makeCluster } from '../support/cluster.ts'
import { adminUrl } from '../support/database.ts'
import { makeSource } from '../support/scratch.ts'

const POINTS = 10
const ROWS = 120_000

const backfill = `
import { sql } from 'drizzle-orm'
export default {
  table: 'public.posts',
  pending: sql\`slug is null\`,
  columns: ['id'],
  batchSize: 10_000,
  async migrate(tx, rows) {
    const [first, last] = [rows[0].id, rows.at(-1).id]
    await tx.execute(sql\`update public.posts set slug = lower(title), visits = visits + 1 where id between \${first} and \${last}\`)
  },
}`

// Every kind of step, each long enough to be met by a kill.
const workload = {
  tables: `create table public.posts (id int primary key, title text not null, slug text, visits int not null default 0);
create table public.tags (id int primary key, post_id int);
insert into public.posts select n, 'Post ' || n from generate_series(1, ${ROWS}) n;
insert into public.tags select n, n from generate_series(1, ${ROWS}) n;`,
  index: `-- plinth: concurrently
create index posts_title_idx on public.posts (title, id);
--> statement-breakpoint
-- plinth: concurrently
create unique index tags_post_idx on public.tags (post_id);
--> statement-breakpoint
alter table public.tags add constraint tags_post_key unique using index tags_post_idx;`,
  key: `alter table public.tags add constraint tags_post_fkey foreign key (post_id) references public.posts (id) not valid;
--> statement-breakpoint
-- plinth: step
alter table public.tags validate constraint tags_post_fkey;`,
  retype: 'alter table public.posts alter column id type bigint;',
  backfill: { up: '', module: backfill },
  drop: '-- plinth: concurrently\ndrop index public.posts_title_idx;',
  last: `create view public.busy as select id, visits from public.posts where visits > 1;`,
}

const stateOf = async (db: Database) => ({
  catalog: await catalogOf(db),
  rows: await rowsOf(
    db,
    sql`select count(*)::int as n, sum(visits)::int as visits, count(slug)::int as slugs from public.posts`,
  ),
  ledger: await rowsOf(
    db,
    sql`select l.name, l.status, l.step, l.steps, count(d.name)::int as recorded from drizzle.__plinth_migrations l
      left join drizzle.__drizzle_migrations d using (name) group by 1, 2, 3, 4 order by 1`,
  ),
  invalid: await rowsOf(
    db,
    sql`select indexrelid::regclass::text from pg_index where not indisvalid`,
  ),
})

describe.skipIf(!adminUrl || process.env.PLINTH_TEST_DRIVER)('a migrator', () => {
  let cluster: Cluster
  let source: MigrationSource
  let clean: Awaited<ReturnType<typeof stateOf>>
  let duration: number

  const at = (database: string) =>
    Object.assign(new URL(cluster.url), { pathname: `/${database}` }).href

  async function within<T>(database: string, work: (db: Database) => Promise<T>): Promise<T> {
    const db = await connect(at(database), { maxConnections: 2 })
    return work(db).finally(() => db.close())
  }

  const create = (database: string) =>
    within('postgres', (db) => db.execute(sql.raw(`create database ${database}`)))

  const start = async (database: string): Promise<ChildProcess> => {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', 'test/support/migrate-child.ts', at(database), source.folder],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    )
    await once(child.stdout as NonNullable<typeof child.stdout>, 'data')
    return child
  }

  beforeAll(async () => {
    cluster = await makeCluster()
    source = await makeSource(workload)
    await create('clean')
    const begun = performance.now()
    clean = await within('clean', async (db) => {
      await migrate(db, { sources: [source] })
      duration = performance.now() - begun
      return stateOf(db)
    })
  }, 120_000)
  afterAll(() => cluster?.remove())

  test('of the clean run left nothing undone', () => {
    expect(clean.rows).toEqual([{ n: ROWS, visits: ROWS, slugs: ROWS }])
    expect(clean.invalid).toEqual([])
    expect(clean.ledger).toHaveLength(Object.keys(workload).length)
  })

  // A point in each part of the run, at random within it.
  const points = Array.from({ length: POINTS }, (_, at) => (at + Math.random()) / POINTS)

  test.each(points.map((point, at) => [at, point] as const))(
    'that is killed (%i) leaves what one more run completes',
    async (at, point) => {
      await create(`client_${at}`)
      const child = await start(`client_${at}`)
      const ended = once(child, 'exit')
      await pause(point * duration)
      child.kill('SIGKILL')
      await ended
      await within(`client_${at}`, async (db) => {
        await migrate(db, { sources: [source] })
        expect(await stateOf(db), `killed at ${point}`).toEqual(clean)
      })
    },
    60_000,
  )

  test.each(points.map((point, at) => [at, point] as const))(
    'whose server is killed (%i) leaves what one more run completes',
    async (at, point) => {
      await create(`server_${at}`)
      const child = await start(`server_${at}`)
      const ended = once(child, 'exit')
      await pause(point * duration)
      await cluster.kill()
      await ended
      await cluster.start()
      await within(`server_${at}`, async (db) => {
        await migrate(db, { sources: [source] })
        expect(await stateOf(db), `killed at ${point}`).toEqual(clean)
      })
    },
    60_000,
  )
})
