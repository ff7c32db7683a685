import { setTimeout as pause } from 'node:timers/promises'
import { eq, sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { BufferError, ConnectionError, LockError, ValidationError } from '../../src/errors.ts'
import { listActivity, recordActivities } from '../../src/queries/activity.ts'
import { type BufferedActivity, bufferActivity } from '../../src/queries/activity-buffer.ts'
import { archiveOrganization } from '../../src/queries/identity.ts'
import { activityLogs } from '../../src/schema/activity.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/database.ts'

const NO_PARTITION = new Date('1999-12-31T23:59:59Z')

const actionsOf = (lines: readonly { action: string }[]) => lines.map(({ action }) => action)

/** The same database, with transactions that fail as `fault` says: before they begin, or after COMMIT. */
function faulty(
  db: Database,
  fault: () => { before?: unknown; after?: unknown } | undefined,
): Database {
  const transaction: Database['transaction'] = async (work, ...config) => {
    const { before, after } = fault() ?? {}
    if (before) throw before
    const result = await db.transaction(work, ...config)
    if (after) throw after
    return result
  }
  return Object.create(db, { transaction: { value: transaction } })
}

/** Collects what a buffer gives up. */
function collect() {
  const failures: { error: unknown; entries: readonly BufferedActivity[] }[] = []
  const onError = (error: unknown, entries: readonly BufferedActivity[]) => {
    failures.push({ error, entries })
  }
  return { failures, onError }
}

const written = ({ organizationId }: Scope, db = root) =>
  asService(db, organizationId, ({ db }) =>
    db.select().from(activityLogs).where(eq(activityLogs.organizationId, organizationId)),
  )

const never = { maxDelayMs: 3_600_000 }

describe('bufferActivity', () => {
  test('holds no secret, so that onError is given none', async () => {
    const scope = await makeScope(root)
    const failing = faulty(root, () => ({ before: new Error('no') }))
    const { failures, onError } = collect()
    const buffer = bufferActivity(failing, { ...never, onError })
    buffer.record(scope, {
      action: 'a',
      metadata: { token: 'abc' },
      changes: { b: 'Bearer abcdefgh' },
    })
    await buffer.close()
    expect(failures.flatMap(({ entries }) => entries)).toMatchObject([
      { metadata: { token: '[redacted]' }, changes: { b: 'Bearer [redacted]' } },
    ])
  })

  test('writes when the batch is full, and not before', async () => {
    const scope = await makeScope(root)
    await using buffer = bufferActivity(root, { ...never, ...collect(), maxSize: 3 })
    buffer.record(scope, { action: '1' })
    buffer.record(scope, { action: '2' })
    await pause(50)
    expect(await written(scope)).toEqual([])
    buffer.record(scope, { action: '3' })

    await expect.poll(() => buffer.pending).toBe(0)
    expect(await written(scope)).toHaveLength(3)
  })

  test('writes after the delay', async () => {
    const scope = await makeScope(root)
    await using buffer = bufferActivity(root, { ...collect(), maxDelayMs: 50 })
    buffer.record(scope, { action: '1' })
    await expect.poll(() => buffer.pending).toBe(0)
    buffer.record(scope, { action: '2' })
    await expect.poll(() => buffer.pending).toBe(0)

    expect(await written(scope)).toHaveLength(2)
  })

  test('writes when it is closed, and then takes no more', async () => {
    const scope = await makeScope(root)
    const buffer = bufferActivity(root, { ...never, ...collect() })
    buffer.record(scope, { action: '1' })
    await Promise.all([buffer.close(), buffer.close()])

    expect(await written(scope)).toHaveLength(1)
    expect(() => buffer.record(scope, { action: '2' })).toThrow(
      expect.objectContaining({ name: 'BufferError', reason: 'closed' }),
    )
  })

  test('keeps the order, the actor and the state of the time at which it was told', async () => {
    const scope = await makeScope(root)
    const before = Date.now()
    const metadata = { state: 'then' }
    await using buffer = bufferActivity(root, { ...never, ...collect() })
    const ids = [
      buffer.record(scope, { action: 'first', metadata }),
      buffer.record(scope, { action: 'second', actorId: null }),
      buffer.record({ organizationId: scope.organizationId }, { action: 'third' }),
    ]
    const after = Date.now()
    metadata.state = 'now'
    await pause(20)
    await buffer.flush()

    const lines = await inTenant(root, scope, (tenant) => listActivity(tenant))
    expect(lines.map(({ id }) => id)).toEqual(ids.toReversed())
    expect(lines.map(({ actorId }) => actorId)).toEqual([null, null, scope.userId])
    expect(lines[2]?.metadata).toEqual({ state: 'then' })
    for (const { occurredAt } of lines) {
      expect(occurredAt.getTime()).toBeGreaterThanOrEqual(before)
      expect(occurredAt.getTime()).toBeLessThanOrEqual(after)
    }
  })

  test('writes each organization into its own log, one transaction at a time', async () => {
    const scopes = [await makeScope(root), await makeScope(root)] as const
    let [open, most, count] = [0, 0, 0]
    const transaction: Database['transaction'] = async (...args) => {
      open += 1
      count += 1
      most = Math.max(most, open)
      return root.transaction(...args).finally(() => {
        open -= 1
      })
    }
    const db: Database = Object.create(root, { transaction: { value: transaction } })
    await using buffer = bufferActivity(db, { ...never, ...collect() })
    for (let n = 0; n < 10; n += 1) {
      for (const scope of scopes) buffer.record(scope, { action: scope.organizationId })
    }
    await Promise.all([buffer.flush(), buffer.flush()])

    expect({ most, count }).toEqual({ most: 1, count: 2 })
    for (const scope of scopes) {
      expect(actionsOf(await written(scope))).toEqual(Array(10).fill(scope.organizationId))
    }
  })

  test('validates at once, and is full at maxPending', async () => {
    const scope = await makeScope(root)
    await using buffer = bufferActivity(root, { ...never, ...collect(), maxSize: 2, maxPending: 2 })
    expect(() => buffer.record(scope, { action: 'a\0' })).toThrow(ValidationError)
    expect(() => buffer.record({ organizationId: '' }, { action: 'a' })).toThrow(ValidationError)
    buffer.record(scope, { action: '1' })
    buffer.record(scope, { action: '2' })

    expect(() => buffer.record(scope, { action: '3' })).toThrow(BufferError)
    await buffer.flush()
    buffer.record(scope, { action: '3' })
    await buffer.flush()
    expect(await written(scope)).toHaveLength(3)
  })

  test('tries again what a lock or a lost connection kept back, and writes it once', async () => {
    const scope = await makeScope(root)
    const { failures, onError } = collect()
    const faults = [
      { before: new LockError('deadlock') },
      { before: new ConnectionError('lost') },
      { after: new ConnectionError('lost', { committed: 'unknown' }) },
    ]
    const db = faulty(root, () => faults.shift())
    await using buffer = bufferActivity(db, { onError, maxDelayMs: 10 })
    for (let n = 0; n < 5; n += 1) buffer.record(scope, { action: String(n) })

    await expect.poll(() => buffer.pending).toBe(0)
    expect(faults).toEqual([])
    expect(failures).toEqual([])
    expect(actionsOf(await written(scope)).toSorted()).toEqual(['0', '1', '2', '3', '4'])
  })

  test('tells who flushes of a lost connection, and keeps the lines', async () => {
    const scope = await makeScope(root)
    const faults = [{ before: new ConnectionError('lost') }]
    await using buffer = bufferActivity(
      faulty(root, () => faults.shift()),
      { ...never, ...collect() },
    )
    buffer.record(scope, { action: '1' })

    await expect(buffer.flush()).rejects.toThrow(ConnectionError)
    expect(buffer.pending).toBe(1)
    await buffer.flush()
    expect(await written(scope)).toHaveLength(1)
  })

  test('waits longer each time while nothing answers, however much is recorded', async () => {
    const scope = await makeScope(root)
    let attempts = 0
    const db = faulty(root, () => {
      attempts += 1
      return { before: new ConnectionError('down') }
    })
    const { onError, failures } = collect()
    const buffer = bufferActivity(db, { onError, maxSize: 1, maxDelayMs: 1, closeTimeoutMs: 50 })
    const end = Date.now() + 650
    while (Date.now() < end) {
      buffer.record(scope, { action: 'x' })
      await pause(5)
    }
    // At 0, 100, 300 ms, and the next would be at 700.
    expect(attempts).toBeGreaterThanOrEqual(2)
    expect(attempts).toBeLessThanOrEqual(4)
    const { pending } = buffer
    await buffer.close()
    expect(failures[0]?.entries).toHaveLength(pending)
  })

  test('hands over the lines of an archived organization, and writes those of the others', async () => {
    const [closed, open] = [await makeScope(root), await makeScope(root)]
    const { failures, onError } = collect()
    await using buffer = bufferActivity(root, { ...never, onError })
    const id = buffer.record(closed, { action: 'late' })
    buffer.record(open, { action: 'good' })
    await archiveOrganization(root, closed.organizationId)
    await buffer.flush()

    expect(buffer.pending).toBe(0)
    expect(failures).toMatchObject([
      {
        error: { name: 'ForbiddenError', reason: 'organization_archived' },
        entries: [
          { id, action: 'late', organizationId: closed.organizationId, actorId: closed.userId },
        ],
      },
    ])
    expect(actionsOf(await written(open))).toEqual(['good'])
  })

  test('hands over the lines of a missing month, and writes the rest of the batch', async () => {
    const scope = await makeScope(root)
    const { failures, onError } = collect()
    await using buffer = bufferActivity(root, { ...never, onError })
    buffer.record(scope, { action: '1' })
    buffer.record(scope, { action: 'old', occurredAt: NO_PARTITION })
    buffer.record(scope, { action: '2' })
    await buffer.flush()

    expect(failures).toMatchObject([
      { error: { name: 'MissingPartitionError' }, entries: [{ action: 'old' }] },
    ])
    expect(actionsOf(await written(scope)).toSorted()).toEqual(['1', '2'])
  })

  test('closes in bounded time when nothing answers, and hands over the rest', async () => {
    const scope = await makeScope(root)
    const { failures, onError } = collect()
    let hang = true
    const transaction: Database['transaction'] = async (...args) => {
      while (hang) await pause(20)
      return root.transaction(...args)
    }
    const db: Database = Object.create(root, { transaction: { value: transaction } })
    const buffer = bufferActivity(db, { ...never, onError, closeTimeoutMs: 200 })
    const id = buffer.record(scope, { action: 'x' })
    const start = Date.now()
    await buffer.close()

    expect(Date.now() - start).toBeLessThan(2_000)
    expect(failures).toMatchObject([{ error: { name: 'TimeoutError' }, entries: [{ id }] }])
    // What was under way is written after all, and not reported again; nor is it written twice.
    hang = false
    await expect.poll(() => written(scope)).toHaveLength(1)
    await inTenant(root, scope, (tenant) => recordActivities(tenant, failures[0]?.entries ?? []))
    expect(await written(scope)).toHaveLength(1)
    expect(failures).toHaveLength(1)
  })

  test.for([{ maxSize: 0 }, { maxDelayMs: 0 }, { maxPending: 99 }, { closeTimeoutMs: 1e18 }])(
    'refuses %o',
    (options) => {
      expect(() => bufferActivity(root, { ...collect(), ...options })).toThrow(ValidationError)
    },
  )

  test.skipIf(!url)(
    'writes what was recorded, once, while its connections are killed',
    async () => {
      const scopes = [await makeScope(root), await makeScope(root), await makeScope(root)]
      const db = await connect(url ?? '', { maxConnections: 2 })
      const backends = new Set<number>()
      const lost: unknown[] = []
      // Tells the backend of each transaction, so that those of other tests are left alone.
      const transaction: Database['transaction'] = (work, ...config) =>
        db
          .transaction(
            async (tx) => {
              const [row] = await rowsOf<{ pid: number }>(tx, sql`select pg_backend_pid() as pid`)
              if (row) backends.add(row.pid)
              return work(tx)
            },
            ...config,
          )
          .catch((error) => {
            lost.push(error)
            throw error
          })
      const watched: Database = Object.create(db, { transaction: { value: transaction } })
      const { failures, onError } = collect()
      const buffer = bufferActivity(watched, {
        onError,
        maxSize: 20,
        maxDelayMs: 5,
        maxPending: 100_000,
        closeTimeoutMs: 60_000,
      })

      const recorded: string[] = []
      const end = Date.now() + 3_000
      let killed = 0
      // On a slow machine, until enough have been.
      while (Date.now() < end || (killed < 6 && Date.now() < end + 20_000)) {
        for (const scope of scopes) {
          for (let n = 0; n < 10; n += 1) recorded.push(buffer.record(scope, { action: 'x' }))
        }
        await pause(Math.random() * 10)
        const [pid] = backends
        if (pid && Math.random() < 0.1) {
          backends.delete(pid)
          await owner.execute(sql`select pg_terminate_backend(${pid}::int)`)
          killed += 1
        }
      }
      await buffer.close()
      await db.close()

      const lines = (await Promise.all(scopes.map((scope) => written(scope)))).flat()
      expect(failures).toEqual([])
      expect(killed).toBeGreaterThan(5)
      expect(lost.length).toBeGreaterThan(0)
      expect(lines.map(({ id }) => id).toSorted()).toEqual(recorded.toSorted())
    },
    120_000,
  )
})
