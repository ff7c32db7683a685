import { setTimeout as pause } from 'node:timers/promises'
import { eq, sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { connect, type Database } from '../../src/database.ts'
import { ForbiddenError, TransactionError, ValidationError } from '../../src/errors.ts'
import { LockHeldError, LockLostError } from '../../src/guard-errors.ts'
import { listActivity, recordActivity } from '../../src/queries/activity.ts'
import {
  acquireLock,
  checkLock,
  extendLock,
  type HeldLock,
  type Lock,
  type LockPlace,
  releaseLock,
  withLock,
} from '../../src/queries/locks.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { locks, tenantLocks } from '../../src/schema/ops.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { aborted, runChild } from '../support/child.ts'
import { owner, root, test, url } from '../support/database.ts'

/** Every place of a lock, for whoever may have one there. */
const places: Record<
  string,
  (db: Database, work: (place: LockPlace) => Promise<void>) => Promise<unknown>
> = {
  'the platform': (db, work) => work(db),
  'an organization, out of scope': async (db, work) => work({ db, ...(await makeScope(db)) }),
  'an organization, as a service out of scope': async (db, work) =>
    work({ db, organizationId: (await makeScope(db)).organizationId }),
  'the scope of a viewer': async (db, work) =>
    inTenant(db, await joinScope(db, await makeScope(db), 'viewer'), work),
  'the scope of a service': async (db, work) =>
    asService(db, (await makeScope(db)).organizationId, work),
}

const held = (lock: Lock | undefined): Lock => {
  if (!lock) throw new Error('the lock is taken')
  return lock
}

/** Lets a lease run out, whatever the clock says. */
async function expire(name: string) {
  const past = sql`now() - interval '1 hour'`
  await owner.update(locks).set({ leasedUntil: past }).where(eq(locks.name, name))
  await owner.update(tenantLocks).set({ leasedUntil: past }).where(eq(tenantLocks.name, name))
}

describe.each(Object.entries(places))('in %s', (_, enter) => {
  test('one holder at a time, each with a greater token', async ({ db }) => {
    await enter(db, async (place) => {
      const name = uuidV7()
      const first = held(await acquireLock(place, { name, holder: 'worker 1' }))
      expect(await acquireLock(place, { name })).toBeUndefined()
      await expect(withLock(place, { name }, async () => {})).rejects.toMatchObject({
        ...{ name: 'LockHeldError', lock: name, holder: 'worker 1' },
        retryAfterMs: expect.closeTo(30_000, -4),
      })

      await releaseLock(place, first)
      const second = held(await acquireLock(place, { name }))
      expect(second.token).toBeGreaterThan(first.token)
      // Of a holder before, it changes nothing.
      await releaseLock(place, first)
      expect(await acquireLock(place, { name })).toBeUndefined()
      await expect(extendLock(place, first)).rejects.toThrow(LockLostError)
      await extendLock(place, second)
    })
  })

  test('a lease runs out, and does not come back', async ({ db }) => {
    await enter(db, async (place) => {
      const name = uuidV7()
      const first = held(await acquireLock(place, { name }))
      await extendLock(place, first, { leaseMs: 1_000 })
      expect(await acquireLock(place, { name })).toBeUndefined()
      await pause(1_020)
      await expect(extendLock(place, first)).rejects.toThrow(LockLostError)
      const second = held(await acquireLock(place, { name }))
      expect(second.token).toBeGreaterThan(first.token)
    })
  })

  test('withLock gives back what the work does, and the lock', async ({ db }) => {
    await enter(db, async (place) => {
      const name = uuidV7()
      const tokens: bigint[] = []
      const work = async (lock: HeldLock) => tokens.push(lock.token)
      expect(await withLock(place, { name }, work)).toBe(1)
      const failed = withLock(place, { name }, async (lock) => {
        tokens.push(lock.token)
        throw new RangeError('of the work')
      })
      await expect(failed).rejects.toThrow(RangeError)
      expect(await withLock(place, { name }, work)).toBe(3)
      expect(tokens).toEqual([...new Set(tokens)].sort())
    })
  })
})

describe('checkLock', () => {
  test('passes the newest holder, and no other', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      const name = uuidV7()
      const first = held(await acquireLock(tenant, { name }))
      await checkLock(tenant, first)
      await extendLock(tenant, first, { leaseMs: 100 })
      await pause(120)
      // Although nobody has acquired it yet.
      await expect(checkLock(tenant, first)).rejects.toThrow(LockLostError)
      const second = held(await acquireLock(tenant, { name }))
      await expect(checkLock(tenant, first)).rejects.toThrow(LockLostError)
      await checkLock(tenant, second)
      await releaseLock(tenant, second)
      await expect(checkLock(tenant, second)).rejects.toThrow(LockLostError)
    })
  })

  test('passes a lock of the platform in a transaction, and before scopes in it', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await withLock(db, { name: uuidV7() }, (lock) =>
      db.transaction(async (tx) => {
        await checkLock(tx, lock)
        await inTenant(tx, scope, (tenant) => recordActivity(tenant, { action: 'job.wrote' }))
      }),
    )
    expect(await inTenant(db, scope, (tenant) => listActivity(tenant))).toHaveLength(1)
  })

  test('is refused where it would hold for nothing', async () => {
    const lock = { name: uuidV7(), token: 1n }
    await expect(checkLock(root, lock)).rejects.toThrow(TransactionError)
    const scope = await makeScope(root)
    await expect(checkLock({ db: root, ...scope }, lock)).rejects.toThrow(TransactionError)
  })
})

describe('whose a lock is', () => {
  test('one name is another lock in each organization and on the platform', async ({ db }) => {
    const name = uuidV7()
    const one = await makeScope(db)
    for (const place of [db, { db, ...one }, { db, ...(await makeScope(db)) }]) {
      held(await acquireLock(place, { name }))
    }
    // A token is good in the own organization only.
    const two = { db, ...(await makeScope(db)) }
    const lock = held(await acquireLock({ db, ...one }, { name: uuidV7() }))
    await releaseLock(two, lock)
    await expect(extendLock(two, lock)).rejects.toThrow(LockLostError)
    await extendLock({ db, ...one }, lock)
    // All members have it together.
    const other = await joinScope(db, one)
    expect(await acquireLock({ db, ...other }, { name })).toBeUndefined()
  })

  test('a scope has no lock of the platform, and no row of any', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await expect(tenant.db.transaction((tx) => acquireLock(tx, { name: 'x' }))).rejects.toThrow(
        ForbiddenError,
      )
      for (const table of [locks, tenantLocks]) {
        const read = tenant.db.transaction((tx) => tx.select().from(table))
        await expect(read).rejects.toThrow()
      }
    })
  })

  test('a token is greater than any before also when the row is gone', async ({ db }) => {
    const name = uuidV7()
    const first = held(await acquireLock(db, { name }))
    const tokens: bigint[] = []
    const undone = db.transaction(async (tx) => {
      await releaseLock(tx, first)
      tokens.push(held(await acquireLock(tx, { name })).token)
      throw new RangeError('undone')
    })
    await expect(undone).rejects.toThrow(RangeError)
    const [token = 0n] = tokens
    expect(token).toBeGreaterThan(first.token)
    await releaseLock(db, first)
    expect(held(await acquireLock(db, { name })).token).toBeGreaterThan(token)
  })
})

test('bad arguments are refused before any SQL', async ({ db }) => {
  const refused = [
    () => acquireLock(db, { name: '' }),
    () => acquireLock(db, { name: 'a\0' }),
    () => acquireLock(db, { name: 'a', leaseMs: 99 }),
    () => acquireLock(db, { name: 'a', leaseMs: Number.NaN }),
    () => acquireLock(db, { name: 'a', holder: 'x'.repeat(201) }),
    () => withLock(db, { name: 'a', waitMs: -1 }, async () => {}),
    () => extendLock(db, { name: 'a', token: 0n }),
    () => extendLock(db, { name: 'a', token: 1n }, { leaseMs: 1e9 }),
    () => checkLock(db, { name: 'a', token: 1 as unknown as bigint }),
    () => releaseLock(db, { name: 'a', token: 2n ** 63n }),
  ]
  for (const call of refused) await expect(call()).rejects.toThrow(ValidationError)
  held(await acquireLock(db, { name: uuidV7() }))
})

describe('a holder at work', () => {
  test('keeps the lock for longer than its lease', async () => {
    const name = uuidV7()
    await withLock(root, { name, leaseMs: 1_500 }, async ({ signal }) => {
      const end = performance.now() + 3_000
      while (performance.now() < end) {
        expect(await acquireLock(root, { name })).toBeUndefined()
        await pause(50)
      }
      expect(signal.aborted).toBe(false)
    })
    held(await acquireLock(root, { name }))
  })

  test('hears that it has lost the lock, and does not end as if it had not', async () => {
    const name = uuidV7()
    const tokens: bigint[] = []
    const slow = withLock(root, { name, leaseMs: 300 }, async ({ signal, token }) => {
      tokens.push(token)
      await expire(name)
      tokens.push(held(await acquireLock(root, { name })).token)
      await aborted(signal)
      expect(signal.reason).toBeInstanceOf(LockLostError)
    })
    await expect(slow).rejects.toThrow(LockLostError)
    expect(tokens[1]).toBeGreaterThan(tokens[0] ?? 0n)
    // The next one's it still is.
    expect(await acquireLock(root, { name })).toBeUndefined()
  })

  test('whoever waits gets it next', async () => {
    const name = uuidV7()
    const order: string[] = []
    let first = Promise.resolve()
    await new Promise<void>((isHeld) => {
      first = withLock(root, { name }, async () => {
        isHeld()
        await pause(150)
        order.push('first')
      })
    })
    await withLock(root, { name, waitMs: 5_000 }, async () => order.push('second'))
    await first
    expect(order).toEqual(['first', 'second'])
    await expect(
      withLock(root, { name }, () => withLock(root, { name, waitMs: 100 }, async () => {})),
    ).rejects.toThrow(LockHeldError)
  })
})

describe.skipIf(!url)('among sessions', () => {
  const open = () => connect(url ?? '', { maxConnections: 10, acquireTimeoutMs: 60_000 })

  test('a hundred increments that are read, decided and written lose none', async () => {
    const db = await open()
    const scope = await makeScope(db)
    const name = uuidV7()
    let inside = 0
    let count = 0
    const tokens: bigint[] = []
    await Promise.all(
      Array.from({ length: 100 }, () =>
        withLock({ db, ...scope }, { name, waitMs: 60_000 }, async ({ token }) => {
          inside += 1
          expect(inside).toBe(1)
          tokens.push(token)
          const read = count
          await pause(1)
          count = read + 1
          inside -= 1
        }),
      ),
    )
    expect(count).toBe(100)
    expect(tokens).toEqual([...tokens].sort((a, b) => (a < b ? -1 : 1)))
    expect(new Set(tokens).size).toBe(100)
    await db.close()
  }, 60_000)

  test('in a transaction, the lock is its own until it ends', async () => {
    const scope = await makeScope(root)
    const name = uuidV7()
    const db = await open()
    await inTenant(db, scope, async (tenant) => {
      await withLock(tenant, { name }, async () => {})
      const asked = performance.now()
      expect(await acquireLock({ db, ...scope }, { name })).toBeUndefined()
      expect(performance.now() - asked).toBeLessThan(5_000)
    })
    held(await acquireLock({ db, ...scope }, { name }))
    await db.close()
  })

  test('a checked transaction keeps the next holder out, and the lease is extended beside it', async () => {
    const db = await open()
    const name = uuidV7()
    await withLock(db, { name, leaseMs: 1_500 }, async (lock) => {
      await db.transaction(async (tx) => {
        await checkLock(tx, lock)
        await pause(3_000)
        // The heart has beaten, past the row that is locked.
        expect(lock.signal.aborted).toBe(false)
        await checkLock(tx, lock)
        await expire(name)
        expect(await acquireLock(db, { name })).toBeUndefined()
      })
      const next = held(await acquireLock(db, { name }))
      expect(next.token).toBeGreaterThan(lock.token)
    }).catch((error) => expect(error).toBeInstanceOf(LockLostError))
    await db.close()
  })

  const wrote = async (scope: Scope) =>
    (await inTenant(root, scope, (tenant) => listActivity(tenant))).map(({ action }) => action)

  /** Waits until the lock can be had. */
  const next = async (scope: Scope, name: string) => {
    for (;;) {
      const lock = await acquireLock({ db: root, ...scope }, { name })
      if (lock) return lock
      await pause(20)
    }
  }

  test('a holder that is stopped past its lease, and goes on, cannot write', async () => {
    const scope = await makeScope(root)
    const name = uuidV7()
    const child = runChild('guard-child', [url ?? '', ...Object.values(scope), 'lock', name])
    await child.said('held')
    child.signal('SIGSTOP')
    const stopped = performance.now()
    const lock = await next(scope, name)
    expect(performance.now() - stopped).toBeGreaterThan(200)
    await inTenant(root, scope, async (tenant) => {
      await checkLock(tenant, lock)
      await recordActivity(tenant, { action: 'parent.wrote' })
    })
    child.signal('SIGCONT')
    expect(await child.ended()).toEqual(['held', 'aborted', 'LockLostError '])
    expect(await wrote(scope)).toEqual(['parent.wrote'])
    await extendLock({ db: root, ...scope }, lock)
  }, 30_000)

  test('one that is stopped behind its check keeps the lock until it has written', async () => {
    const scope = await makeScope(root)
    const name = uuidV7()
    const args = [url ?? '', ...Object.values(scope), 'lock-checked', name]
    const child = runChild('guard-child', args)
    await child.said('checked')
    child.signal('SIGSTOP')
    const end = performance.now() + 3_000
    while (performance.now() < end) {
      expect(await acquireLock({ db: root, ...scope }, { name })).toBeUndefined()
    }
    child.signal('SIGCONT')
    await next(scope, name)
    expect(await wrote(scope)).toEqual(['child.wrote'])
    await child.ended()
  }, 30_000)

  test('one that is killed frees the lock after its lease, and not before', async () => {
    const scope = await makeScope(root)
    const name = uuidV7()
    const child = runChild('guard-child', [url ?? '', ...Object.values(scope), 'lock', name])
    await child.said('held')
    child.signal('SIGKILL')
    await expect(withLock({ db: root, ...scope }, { name }, async () => {})).rejects.toMatchObject({
      holder: 'child',
    })
    await withLock({ db: root, ...scope }, { name, waitMs: 10_000 }, async (lock) => {
      expect(lock.signal.aborted).toBe(false)
    })
    expect(await child.ended()).toEqual(['held'])
    expect(await wrote(scope)).toEqual([])
  }, 30_000)
})
