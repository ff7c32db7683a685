import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setImmediate as immediately, setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import type { Sql } from 'postgres'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { ConnectionError, TimeoutError, TransactionError, ValidationError } from '../src/errors.ts'
import { openPool, type Pool, type PoolOptions } from '../src/pool.ts'
import { type FaultyNetwork, openProxy } from './support/proxy.ts'

const url = process.env.DATABASE_URL as string

type Runner = Pick<Sql, 'unsafe'>
const number = async (on: Runner, n: number) =>
  (await on.unsafe('select $1::int as n', [n])).map((row) => row.n)
const numbers = (count: number) => Array.from({ length: count }, (_, n) => n)
const settled = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    (error: unknown) => error,
  )

describe.skipIf(!url)('pipelined', () => {
  const uncaught: unknown[] = []
  const note = (error: unknown) => uncaught.push(error)
  const pools: Pool[] = []
  const tables: string[] = []
  let proxy: FaultyNetwork
  let admin: Pool

  const open = (options: PoolOptions = {}, target = url) => {
    const pool = openPool(target, { acquireTimeoutMs: 2_000, ...options })
    pools.push(pool)
    return pool
  }
  const one = (options: PoolOptions = {}, target = url) =>
    open({ maxConnections: 1, ...options }, target).client
  const pid = async (on: Runner): Promise<number> =>
    (await on.unsafe('select pg_backend_pid() as pid'))[0]?.pid
  /** A table that other connections see, until the end of the test. */
  const createTable = async () => {
    const table = `public.pipelined_${randomBytes(4).toString('hex')}`
    await admin.client.unsafe(`create table ${table} (n int)`)
    tables.push(table)
    return table
  }
  const kill = (backend: number) =>
    admin.client.unsafe('select pg_terminate_backend($1::int)', [backend])
  /** The pool still gives every query its own rows. */
  const expectSound = async (on: Runner, count = 200) =>
    expect(await Promise.all(numbers(count).map((n) => number(on, n)))).toEqual(
      numbers(count).map((n) => [n]),
    )

  beforeAll(() => {
    process.on('uncaughtException', note)
    process.on('unhandledRejection', note)
    admin = openPool(url)
  })
  beforeEach(async () => {
    proxy = await openProxy(url)
  })
  afterEach(async () => {
    await Promise.all(pools.splice(0).map((pool) => pool.close({ timeoutMs: 200 })))
    await proxy.close()
    for (const table of tables.splice(0)) await admin.client.unsafe(`drop table ${table}`)
    await pause(5)
    expect(uncaught.splice(0)).toEqual([])
  })
  afterAll(async () => {
    await admin.close()
    process.off('uncaughtException', note)
    process.off('unhandledRejection', note)
  })

  describe('a transaction', () => {
    test('gives the connection back after a commit, a rollback and a failed COMMIT', async () => {
      const client = one()
      await client.begin((tx) =>
        tx.unsafe('create temp table t (id int unique initially deferred)'),
      )
      await expect(client.begin((tx) => tx.unsafe('select 1 / 0'))).rejects.toMatchObject({
        code: '22012',
      })
      const deferred = client.begin((tx) => tx.unsafe('insert into t values (1), (1)'))

      await expect(deferred).rejects.toMatchObject({ code: '23505', constraint_name: 't_id_key' })
      expect(await client.unsafe('select count(*)::int as n from t')).toMatchObject([{ n: 0 }])
    })

    test('takes two round trips with pipelined queries, and one if it sends its own COMMIT', async () => {
      const slow = await openProxy(url, { delayMs: 60 })
      const client = one({}, slow.url)
      // The best of several, since a busy machine can only be slower.
      const time = async (work: () => Promise<unknown>) => {
        await work()
        const times: number[] = []
        for (const _ of numbers(8)) {
          const start = performance.now()
          await work()
          times.push(performance.now() - start)
        }
        return Math.round(Math.min(...times) / 60)
      }
      const ask = (tx: Runner) => Promise.all([number(tx, 1), number(tx, 2), number(tx, 3)])

      const plain = await time(() => number(client, 1))
      const callback = await time(() => client.begin(ask))
      const early = await time(() =>
        client.begin((tx) => Promise.all([ask(tx), tx.unsafe('commit')])),
      )
      await slow.close()

      expect({ plain, callback, early }).toEqual({ plain: 1, callback: 2, early: 1 })
    })

    test('does not wait for one packet to be acknowledged before it sends the next', async () => {
      // Shorter than a kernel delays an acknowledgement that nothing else carries.
      const slow = await openProxy(url, { delayMs: 20 })
      const client = one({}, slow.url)
      const times: number[] = []
      for (const _ of numbers(10)) {
        const start = performance.now()
        await client.begin(async (tx) => {
          const asked = number(tx, 1)
          await immediately()
          return Promise.all([asked, tx.unsafe('commit')])
        })
        times.push(performance.now() - start)
      }
      await slow.close()

      expect(Math.round(Math.min(...times) / 20)).toBe(1)
    })

    test('sends queries in the order of the calls, awaited or not', async () => {
      const rows = await one().begin(async (tx) => {
        tx.unsafe('create temp table t (n int) on commit drop')
        for (const n of numbers(300)) tx.unsafe('insert into t select $1::int', [n])
        return tx.unsafe('select n from t')
      })

      expect(rows.map((row) => row.n)).toEqual(numbers(300))
    })

    test('keeps order with 300 queries that nobody awaits and with megabytes of parameters', async () => {
      const large = 'x'.repeat(3 * 1024 * 1024)
      const client = one()
      const answers = await client.begin((tx) =>
        Promise.all(
          numbers(300).map(async (n) => {
            const text = n % 60 === 0 ? large : `${n}`
            const [row] = await tx.unsafe('select $1::int as n, length($2) as length', [n, text])
            return [row?.n, row?.length === text.length]
          }),
        ),
      )

      expect(answers).toEqual(numbers(300).map((n) => [n, true]))
      await expectSound(client)
    })

    test('is rolled back when the failure of a query was caught', async () => {
      const client = one()
      await client.unsafe('create temp table t (n int)')
      const caught = client.begin(async (tx) => {
        await tx.unsafe('insert into t values (1)')
        await tx.unsafe('select 1 / 0').catch(() => {})
        return 'fine'
      })

      await expect(caught).rejects.toThrow(TransactionError)
      expect(await client.unsafe('select n from t')).toHaveLength(0)
    })

    test('refuses a query after its end, and the pool never sees it', async () => {
      const client = one()
      let kept: Runner | undefined
      await client.unsafe('create temp table t (n int)')
      await client.begin(async (tx) => {
        kept = tx
      })
      expect(() => kept?.unsafe('insert into t values (1)')).toThrow(TransactionError)

      const failed = client.begin(async (tx) => {
        kept = tx
        throw new Error('mine')
      })
      await expect(failed).rejects.toThrow('mine')
      expect(() => kept?.unsafe('insert into t values (1)')).toThrow(TransactionError)

      await client.begin(async (tx) => {
        tx.unsafe('commit')
        expect(() => tx.unsafe('insert into t values (1)')).toThrow(TransactionError)
      })
      expect(await client.unsafe('select n from t')).toHaveLength(0)

      const inSavepoint = client.begin((tx) =>
        tx.savepoint(async (inner) => {
          inner.unsafe('commit')
          throw new Error('mine')
        }),
      )
      await expect(inSavepoint).rejects.toThrow('mine')
    })

    test('ends by a COMMIT that travels with its queries, which is checked', async () => {
      const client = one()
      await client.unsafe('create temp table t (n int unique initially deferred)')
      const insert = (statement: string) =>
        client.begin(async (tx) => {
          const inserted = tx.unsafe(statement)
          tx.unsafe('commit')
          await inserted.catch(() => {})
        })
      await insert('insert into t values (1)')

      await expect(insert('insert into t values (1 / 0)')).rejects.toThrow(TransactionError)
      await expect(insert('insert into t values (1)')).rejects.toMatchObject({ code: '23505' })
      expect(await client.unsafe('select n from t')).toEqual([{ n: 1 }])
    })

    test('undoes a savepoint and goes on, nested too', async () => {
      const rows = await one().begin(async (tx) => {
        await tx.unsafe('create temp table t (n int) on commit drop')
        await tx.savepoint(async (inner) => {
          await inner.unsafe('insert into t values (1)')
          await inner
            .savepoint((deep) => deep.unsafe('insert into t values (1 / 0)'))
            .catch(() => {})
        })
        const undone = tx.savepoint(async (inner) => {
          await inner.unsafe('insert into t values (2)')
          throw new Error('undo')
        })
        await expect(undone).rejects.toThrow('undo')
        await tx.unsafe('insert into t values (3)')
        return tx.unsafe('select n from t')
      })

      expect(rows.map((row) => row.n)).toEqual([1, 3])
    })

    test('is refused as a whole when a parameter cannot be written, and mixes up no rows', async () => {
      const client = one()
      await number(client, 1)
      const broken = client.begin(async (tx) => {
        const before = number(tx, 1)
        const unwritable = tx.unsafe('select $1::int', [undefined as never])
        const after = settled(number(tx, 2))
        await expect(before).rejects.toThrow(ConnectionError)
        expect(await after).toBeInstanceOf(ConnectionError)
        return unwritable
      })

      await expect(broken).rejects.toMatchObject({ code: 'UNDEFINED_VALUE' })
      await expect(client.unsafe('select $1::int', [undefined as never])).rejects.toMatchObject({
        code: 'UNDEFINED_VALUE',
      })
      await expectSound(client)
    })

    test('runs no query again after its end that was prepared for an older table', async () => {
      const client = one()
      const table = await createTable()
      const insert = (on: Runner) =>
        on.unsafe(`insert into ${table} values ($1::int) returning *`, [1])
      await insert(client)
      await admin.client.unsafe(`alter table ${table} add column m int`)
      const stale = client.begin(async (tx) => {
        const inserted = insert(tx)
        tx.unsafe('commit')
        return inserted
      })

      await expect(stale).rejects.toMatchObject({ code: '0A000' })
      await client.begin((tx) => insert(tx))
      expect(await admin.client.unsafe(`select n, m from ${table}`)).toEqual(
        numbers(2).map(() => ({ n: 1, m: null })),
      )
    })

    test('prepares a query anew outside a transaction', async () => {
      const client = one()
      const insert = () => client.unsafe('insert into t values ($1::int) returning *', [1])
      await client.unsafe('create temp table t (n int)')
      await insert()
      await client.unsafe('alter table t add column m int')

      expect(await insert()).toEqual([{ n: 1, m: null }])
    })

    test('is not run when its BEGIN is refused', async () => {
      const client = one({ prepare: false, statementTimeoutMs: -1 })
      const refused = client.begin((tx) => number(tx, 1))

      await expect(refused).rejects.toMatchObject({
        name: 'ConnectionError',
        cause: { code: '22023' },
      })
      await expectSound(client, 10)
    })

    test('fails with an error that holds no parameters', async () => {
      const secret = 'hunter2'
      const error = await settled(one().unsafe('select 1 / $1::text::int', [secret]))

      expect(error).toMatchObject({ code: '22P02' })
      expect(error).not.toHaveProperty('parameters')
    })

    test('survives queries that nobody awaits and that fail', async () => {
      const client = one()
      const failing = client.begin(async (tx) => {
        tx.unsafe('select 1 / 0')
        tx.unsafe('select 2 / 0')
        throw new Error('mine')
      })

      await expect(failing).rejects.toThrow('mine')
      client.unsafe('select 1 / 0')
      await expectSound(client)
    })
  })

  describe('a lost connection', () => {
    test('killed in flight: rejects every query that waits on it', async () => {
      const client = one()
      const backend = await pid(client)
      const plain = settled(client.unsafe('select pg_sleep(5)'))
      await pause(20)
      await kill(backend)
      expect(await plain).toMatchObject({ name: 'ConnectionError', committed: 'unknown' })

      await number(client, 1)
      const all: Promise<unknown>[] = []
      const transaction = client.begin(async (tx) => {
        const own = await pid(tx)
        for (const n of numbers(150)) all.push(settled(tx.unsafe('select pg_sleep($1)', [n + 1])))
        await pause(20)
        await kill(own)
        await Promise.all(all)
        return tx.unsafe('select 1')
      })
      await expect(transaction).rejects.toMatchObject({ name: 'ConnectionError', committed: 'no' })
      expect(await Promise.all(all)).toEqual(all.map(() => expect.any(ConnectionError)))
      await expectSound(client)
    })

    test('killed while idle in a transaction: runs none of its queries elsewhere', async () => {
      const client = one()
      const table = await createTable()
      const losing = client.begin(async (tx) => {
        await kill(await pid(tx))
        await pause(50)
        await settled(tx.unsafe(`insert into ${table} values (1)`))
        await tx.unsafe(`insert into ${table} values (2)`)
      })

      await expect(losing).rejects.toThrow(ConnectionError)
      await expectSound(client)
      expect(await admin.client.unsafe(`select n from ${table}`)).toHaveLength(0)
    })

    test('cut part-way through a result: every later query gets exactly its own rows', async () => {
      const client = open({ maxConnections: 3 }, proxy.url).client
      await expectSound(client, 3)
      proxy.cutAfter(100_000)
      const half = client.unsafe("select n, repeat('x', 1000) from generate_series(1, 1000) n")

      await expect(half).rejects.toMatchObject({
        name: 'ConnectionError',
        cause: expect.any(Error),
      })
      await expectSound(client)
    })

    test('cut part-way in a transaction with queries queued behind: runs none of them', async () => {
      const client = one({}, proxy.url)
      const table = await createTable()
      const cut = client.begin(async (tx) => {
        proxy.cutAfter(100_000)
        tx.unsafe("select $1::int, n, repeat('x', 1000) from generate_series(1, 1000) n", [1])
        // Not described yet, so that postgres.js would keep it in its queue, and run it after its reconnection.
        const queued = numbers(50).map((n) => tx.unsafe(`insert into ${table} select $1::int`, [n]))
        await Promise.allSettled(queued)
        return tx.unsafe('select 1')
      })

      await expect(cut).rejects.toThrow(ConnectionError)
      await expectSound(client)
      expect(await admin.client.unsafe(`select n from ${table}`)).toHaveLength(0)
    })

    test('lost while COMMIT is in flight: nobody knows whether it committed', async () => {
      const client = one({}, proxy.url)
      const commit = client.begin(async (tx) => {
        await tx.unsafe('select 1')
        proxy.stall()
        setTimeout(proxy.drop, 30)
      })
      await expect(commit).rejects.toMatchObject({ name: 'ConnectionError', committed: 'unknown' })
    })

    test('lost while an early COMMIT is in flight: its queries say unknown, too', async () => {
      const client = one({}, proxy.url)
      const early = client.begin(async (tx) => {
        await tx.unsafe('select 1')
        proxy.stall()
        setTimeout(proxy.drop, 30)
        const query = tx.unsafe('select 2')
        tx.unsafe('commit')
        return query
      })
      await expect(early).rejects.toMatchObject({ name: 'ConnectionError', committed: 'unknown' })
    })

    test('restart: idle connections are replaced, and callers are refused while it is down', async () => {
      const client = open({ maxConnections: 5 }, proxy.url).client
      await expectSound(client, 20)
      const running = settled(client.unsafe('select pg_sleep(5)'))
      proxy.refuse()
      proxy.drop()

      expect(await running).toBeInstanceOf(ConnectionError)
      const refused = await Promise.all(numbers(20).map((n) => settled(number(client, n))))
      expect(refused).toEqual(refused.map(() => expect.any(ConnectionError)))
      await proxy.accept()
      await expectSound(client)
    })
  })

  describe('the pool', () => {
    test('exhausted: refuses after a bounded time, and recovers', async () => {
      const client = open({ maxConnections: 2, acquireTimeoutMs: 500 }).client
      let finish = () => {}
      const finished = new Promise<void>((resolve) => {
        finish = resolve
      })
      const holders: Promise<unknown>[] = []
      for (const _ of numbers(2)) {
        await new Promise<void>((isHeld) => {
          holders.push(
            client.begin(async (tx) => {
              await number(tx, 1)
              isHeld()
              await finished
            }),
          )
        })
      }
      const start = performance.now()
      const refused = await settled(number(client, 1))
      const refusedTransaction = await settled(client.begin((tx) => number(tx, 1)))

      expect(refused).toMatchObject({ name: 'TimeoutError', waitedFor: 'connection' })
      expect(refusedTransaction).toBeInstanceOf(TimeoutError)
      expect(performance.now() - start).toBeLessThan(3_000)
      finish()
      await Promise.all(holders)
      await number(client, 1)
    })

    test('serves those who wait in the order of their calls, and opens no more than allowed', async () => {
      const client = open({ maxConnections: 3 }, proxy.url).client
      const order: number[] = []
      await Promise.all(
        numbers(100).map(async (n) => {
          await client.begin((tx) => {
            order.push(n)
            return number(tx, n)
          })
        }),
      )

      expect(order).toEqual(numbers(100))
      expect(proxy.accepted()).toBe(3)
    })

    test('closes connections that nobody uses, and opens them again', async () => {
      const client = one({ idleTimeoutMs: 1_500 })
      const first = await pid(client)
      for (const _ of numbers(2)) {
        await pause(800)
        expect(await pid(client)).toBe(first)
      }
      await pause(2_000)

      expect(await pid(client)).not.toBe(first)
    })

    test('gives each query rows, arrays and raw values as Drizzle expects them', async () => {
      const client = one()
      const db = drizzle({ client })
      const when = new Date('2026-01-02T03:04:05.678Z')
      const [row] = await client.unsafe(
        `select array['a', null, 'b,"c\\d'] as text, '{{1,2},{3,4}}'::int[] as nested, '{}'::int[] as none,
          $1::timestamptz[] as times, $2::text[] as written, array['(1,1),(0,0)'::box] as boxes, '[0:1]={1,2}'::int[] as bounds`,
        [[when.toISOString()] as never, ['x"y\\', null, ''] as never],
      )

      expect(row).toEqual({
        text: ['a', null, 'b,"c\\d'],
        nested: [
          [1, 2],
          [3, 4],
        ],
        none: [],
        times: [expect.stringContaining('2026-01-02 03:04:05.678')],
        written: ['x"y\\', null, ''],
        boxes: ['(1,1),(0,0)'],
        bounds: [1, 2],
      })
      const rolledBack = db.transaction(async (tx) => {
        await tx.execute(sql`create temp table t (n int)`)
        await tx.transaction((inner) => inner.execute(sql`insert into t values (1)`))
        expect(await tx.execute(sql`select n from t`)).toMatchObject([{ n: 1 }])
        return tx.rollback()
      })
      await expect(rolledBack).rejects.toThrow()
      expect(await client.unsafe("select to_regclass('pg_temp.t') as t")).toEqual([{ t: null }])
    })

    test('gives a connection up that was told to begin or to end a transaction', async () => {
      const client = one()
      for (const text of ['/* a */ begin', '-- a\nstart transaction', 'select 1; begin']) {
        await expect(client.unsafe(text)).rejects.toBeInstanceOf(TransactionError)
        expect(await client.unsafe('select txid_current_if_assigned() as id')).toEqual([
          { id: null },
        ])
      }
      for (const text of [
        '/* a */ commit',
        'rollback and chain',
        '/**/rollback',
        'select 1; commit',
      ]) {
        const working = client.begin(async (tx) => {
          await tx.unsafe(text)
          return tx.unsafe('select 1')
        })
        await expect(working).rejects.toBeInstanceOf(TransactionError)
      }
    })

    test('sets the timeouts of the server', async () => {
      const client = one({ statementTimeoutMs: 1_000, idleInTransactionTimeoutMs: 300 })
      await expect(client.unsafe('select pg_sleep(5)')).rejects.toMatchObject({ code: '57014' })
      const idle = client.begin(async (tx) => {
        await tx.unsafe('select 1')
        await pause(1_000)
        return tx.unsafe('select 2')
      })

      await expect(idle).rejects.toThrow(ConnectionError)
      await expectSound(client, 10)
    })

    test('prepares every query with parameters once, and none for a pooler', async () => {
      const named = (on: Runner) =>
        on.unsafe("select name from pg_prepared_statements where statement like '%$1::int as n'")
      const [prepared, pooled] = [one(), one({ prepare: false, statementTimeoutMs: 1_000 })]
      for (const client of [prepared, pooled]) {
        await number(client, 1)
        await client.begin((tx) => Promise.all([number(tx, 2), number(tx, 3)]))
        await expectSound(client, 20)
      }

      expect(await named(prepared)).toHaveLength(1)
      expect(await pooled.unsafe('select name from pg_prepared_statements')).toHaveLength(0)
      expect(await pooled.unsafe('show statement_timeout')).toEqual([{ statement_timeout: '0' }])
      const slow = pooled.begin((tx) => tx.unsafe('select pg_sleep(5)'))
      await expect(slow).rejects.toMatchObject({ code: '57014' })
    })

    test('ignores notices unless it is told', async () => {
      const notices: string[] = []
      const raise = "do $$ begin raise notice 'hello'; end $$"
      await one().unsafe(raise)
      await one({ onNotice: ({ message }) => notices.push(message ?? '') }).unsafe(raise)

      expect(notices).toEqual(['hello'])
    })
  })

  describe('opening', () => {
    test('refused: typed, at once, and it names the server', async () => {
      proxy.refuse()
      const error = await settled(number(one({}, proxy.url), 1))

      expect(error).toMatchObject({ name: 'ConnectionError', cause: { code: 'ECONNREFUSED' } })
      expect(String(error)).toContain(new URL(proxy.url).host)
    })

    test('wrong password, no such database: typed, without the password', async () => {
      const wrong = new URL(url)
      wrong.password = 'hunter2'
      const missing = new URL(url)
      missing.pathname = '/nowhere'

      const denied = await settled(number(one({}, wrong.href), 1))
      expect(denied).toMatchObject({ name: 'ConnectionError', cause: { code: '28P01' } })
      expect(String(denied)).not.toContain('hunter2')
      const absent = await settled(one({}, missing.href).begin((tx) => number(tx, 1)))
      expect(absent).toMatchObject({ name: 'ConnectionError', cause: { code: '3D000' } })
    })

    test('a server that never answers, or hangs up: bounded and typed', async () => {
      const silent = createServer(() => {}).listen(0, '127.0.0.1')
      const rude = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1')
      await Promise.all([once(silent, 'listening'), once(rude, 'listening')])
      const at = (server: typeof silent) =>
        url.replace(/:\d+\//, `:${(server.address() as { port: number }).port}/`)

      const late = settled(number(one({ connectTimeoutMs: 50 }, at(silent)), 1))
      const cut = settled(number(one({}, at(rude)), 1))
      expect(await late).toMatchObject({ name: 'TimeoutError', waitedFor: 'connection' })
      expect(String(await late)).toContain('50 ms')
      expect(await cut).toBeInstanceOf(ConnectionError)
      silent.close()
      rude.close()
    })

    test('lost at any byte of it: typed, and the pool recovers', async () => {
      const client = open({}, proxy.url).client
      for (const bytes of [1, 10, 60, 150, 400, 800, 3_000]) {
        proxy.cutAfter(bytes)
        const error = await settled(number(client, 1))
        expect(error).toBeInstanceOf(ConnectionError)
      }
      await expectSound(client)
    })

    test('full server: those who wait are served by the connections there are', async () => {
      const client = open({ maxConnections: 5 }, proxy.url).client
      await number(client, 1)
      proxy.refuse()

      await expectSound(client, 50)
      expect(proxy.accepted()).toBe(1)
    })

    test('not a url: refused without showing it', () => {
      for (const bad of ['postgres://me:hunter2@:x', 'postgres://me:hunter2@a,b/c', 'hunter2']) {
        expect(() => openPool(bad), bad).toThrow(ValidationError)
        expect(() => openPool(bad)).not.toThrow(/hunter2/)
      }
    })
  })

  describe('close', () => {
    test('waits for leased work, refuses what waits and what comes later, and twice is once', async () => {
      const pool = open({ maxConnections: 1 })
      await number(pool.client, 1)
      const leased = pool.client.begin(async (tx) => {
        await pause(50)
        return number(tx, 7)
      })
      const waiting = settled(number(pool.client, 1))
      const closing = pool.close()
      const late = settled(number(pool.client, 2))

      expect(await waiting).toBeInstanceOf(ConnectionError)
      expect(await late).toBeInstanceOf(ConnectionError)
      await closing
      expect(await leased).toEqual([7])
      await pool.close()
      await expect(pool.client.begin((tx) => number(tx, 1))).rejects.toThrow(ConnectionError)
    })

    test('cuts work that takes too long', async () => {
      const pool = open()
      const hanging = settled(pool.client.unsafe('select pg_sleep(5)'))
      await pause(30)
      const start = performance.now()
      await pool.close({ timeoutMs: 50 })

      expect(await hanging).toBeInstanceOf(ConnectionError)
      expect(performance.now() - start).toBeLessThan(3_000)
    })

    test('before anything was opened, or while it is opened, it is quick', async () => {
      await open().close()
      const silent = createServer(() => {}).listen(0, '127.0.0.1')
      await once(silent, 'listening')
      const { port } = silent.address() as { port: number }
      const pool = open({ acquireTimeoutMs: 10_000 }, url.replace(/:\d+\//, `:${port}/`))
      const query = settled(number(pool.client, 1))
      await pause(20)
      const start = performance.now()
      await pool.close({ timeoutMs: 50 })

      expect(await query).toBeInstanceOf(ConnectionError)
      expect(performance.now() - start).toBeLessThan(3_000)
      silent.close()
    })

    test('leaves no backend behind', async () => {
      const pool = open({ maxConnections: 4 })
      const backends = await Promise.all(numbers(4).map(() => pid(pool.client)))
      await pool.close()

      // They have been told to end, which a busy machine takes a while for.
      const left = () =>
        admin.client.unsafe('select pid from pg_stat_activity where pid = any($1::int[])', [
          backends as never,
        ])
      await expect.poll(left).toHaveLength(0)
    })
  })
})
