import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database, rowsOf } from '../src/database.ts'
import { ConnectionError } from '../src/errors.ts'
import { listActivity, recordActivity } from '../src/queries/activity.ts'
import { idempotently } from '../src/queries/idempotency.ts'
import { acquireLock, checkLock, withLock } from '../src/queries/locks.ts'
import { takePublicTokens } from '../src/queries/rate-limits.ts'
import { uuidV7 } from '../src/schema/columns.ts'
import { inTenant, readInTenant } from '../src/tenant.ts'
import { makeScope } from '../src/testing/factories.ts'
import { runChild } from './support/child.ts'
import { url } from './support/database.ts'
import { makePgbouncer, type Pgbouncer } from './support/pgbouncer.ts'

const CALLERS = 200

describe.skipIf(!url)('behind pgbouncer in transaction mode', () => {
  let pooler: Pgbouncer
  let db: Connection

  beforeAll(async () => {
    pooler = await makePgbouncer(url ?? '', { poolSize: 4 })
    db = await connect(pooler.url, {
      prepare: false,
      maxConnections: CALLERS,
      acquireTimeoutMs: 60_000,
    })
  })
  afterAll(async () => {
    await db.close()
    await pooler.close()
  })

  const whereabouts = (on: Database) =>
    rowsOf<{ pid: number; role: string; organization: string; timeout: string }>(
      on,
      sql`select pg_backend_pid() as pid, current_user as role, current_setting('statement_timeout') as timeout,
        current_setting('plinth.organization_id', true) as organization`,
    )

  test('many clients share few sessions, each in its own scope, with the timeouts of its own', async () => {
    const scopes = await Promise.all(Array.from({ length: 4 }, () => makeScope(db)))
    const answers = await Promise.all(
      Array.from({ length: CALLERS }, (_, at) => {
        const scope = scopes[at % scopes.length] ?? { organizationId: '', userId: '' }
        return at % 2 === 0
          ? inTenant(db, scope, (tenant) => whereabouts(tenant.db))
          : readInTenant(db, scope, (tenant) => [whereabouts(tenant.db)]).then(([rows]) => rows)
      }),
    )
    const rows = answers.flat()
    expect(rows.map(({ organization }) => organization)).toEqual(
      rows.map((_, at) => scopes[at % scopes.length]?.organizationId),
    )
    expect(new Set(rows.map(({ role, timeout }) => `${role} ${timeout}`))).toEqual(
      new Set(['plinth_app 30s']),
    )
    expect(new Set(rows.map(({ pid }) => pid)).size).toBeLessThanOrEqual(4)
    // Nothing of a scope is left on a session that others get.
    const after = await Promise.all(Array.from({ length: 20 }, () => whereabouts(db)))
    for (const { role, organization } of after.flat()) {
      expect(role).not.toBe('plinth_app')
      expect(organization ?? '').toBe('')
    }
  })

  test('takes no startup parameters, which are sent unless prepare is false', async () => {
    await expect(
      connect(pooler.url).then((prepared) => whereabouts(prepared).finally(() => prepared.close())),
    ).rejects.toThrow(ConnectionError)
  })

  test('200 calls of one idempotency key have one effect', async () => {
    const scope = await makeScope(db)
    const answers = await Promise.all(
      Array.from({ length: CALLERS }, () =>
        idempotently({ db, ...scope }, { key: 'k', request: 1, waitMs: 30_000 }, () =>
          inTenant(db, scope, (tenant) => recordActivity(tenant, { action: 'once.done' })),
        ),
      ),
    )
    expect(answers.filter(({ replayed }) => replayed)).toHaveLength(CALLERS - 1)
    expect(await inTenant(db, scope, (tenant) => listActivity(tenant))).toHaveLength(1)
  }, 60_000)

  test('1,000 calls of a bucket of 100 are granted 100', async () => {
    const bucket = { key: uuidV7(), capacity: 100, refillPerSecond: 0 }
    const answers = await Promise.all(
      Array.from({ length: 1_000 }, () => takePublicTokens(db, bucket)),
    )
    expect(answers.filter(({ granted }) => granted)).toHaveLength(100)
  }, 60_000)

  test('a lock outlasts the session that it was acquired in, and its lease while it is held', async () => {
    const name = uuidV7()
    await withLock(db, { name, leaseMs: 1_500 }, async (lock) => {
      await pause(3_000)
      expect(lock.signal.aborted).toBe(false)
      expect(await acquireLock(db, { name })).toBeUndefined()
      await db.transaction((tx) => checkLock(tx, lock))
    })
    expect(await acquireLock(db, { name })).toBeDefined()
  })

  test('a holder that is stopped past its lease, and goes on, cannot write', async () => {
    const scope = await makeScope(db)
    const child = runChild('guard-child', [pooler.url, ...Object.values(scope), 'lock', 'n'], {
      UNPREPARED: '1',
    })
    await child.said('held')
    child.signal('SIGSTOP')
    await withLock({ db, ...scope }, { name: 'n', waitMs: 20_000 }, async () => {
      child.signal('SIGCONT')
      expect(await child.ended()).toEqual(['held', 'aborted', 'LockLostError '])
    })
    expect(await inTenant(db, scope, (tenant) => listActivity(tenant))).toEqual([])
  }, 30_000)
})
