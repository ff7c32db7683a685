import { setTimeout as pause } from 'node:timers/promises'
import { and, eq, sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect, vi } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { ConnectionError, TransactionError, ValidationError } from '../../src/errors.ts'
import { IdempotencyError } from '../../src/guard-errors.ts'
import { listActivity, recordActivity } from '../../src/queries/activity.ts'
import {
  type Claim,
  checkClaim,
  type Idempotent,
  type IdempotentlyOptions,
  idempotently,
} from '../../src/queries/idempotency.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { idempotencyKeys } from '../../src/schema/ops.ts'
import { asService, inTenant, type Scope, type Tenancy } from '../../src/tenant.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { aborted, runChild } from '../support/child.ts'
import { owner, root, test, url } from '../support/database.ts'
import { openProxy } from '../support/proxy.ts'

const places: Record<
  string,
  (db: Database, work: (tenancy: Tenancy) => Promise<void>) => Promise<unknown>
> = {
  'out of scope': async (db, work) => work({ db, ...(await makeScope(db)) }),
  'as a service out of scope': async (db, work) =>
    work({ db, organizationId: (await makeScope(db)).organizationId }),
  'in the scope of a viewer': async (db, work) =>
    inTenant(db, await joinScope(db, await makeScope(db), 'viewer'), work),
  'in the scope of a service': async (db, work) =>
    asService(db, (await makeScope(db)).organizationId, work),
}

const keyed = (options: Partial<IdempotentlyOptions> = {}) => ({
  ...{ key: uuidV7(), request: { amount: 1 } },
  ...options,
})

/** Lets the lease of a key run out, or all of it, whatever the clock says. */
async function age(key: string, what: 'lease' | 'answer') {
  const past = sql`now() - interval '1 hour'`
  const set = { leasedUntil: past, ...(what === 'answer' && { expiresAt: past }) }
  await owner.update(idempotencyKeys).set(set).where(eq(idempotencyKeys.key, key))
}

/** As the owner sees it, who is no scope's. */
const rowsUnder = (db: Database, key: string) =>
  db.select().from(idempotencyKeys).where(eq(idempotencyKeys.key, key))

describe.each(Object.entries(places))('%s', (_, enter) => {
  test('the work is done once, and its answer given again', async ({ db }) => {
    await enter(db, async (tenancy) => {
      const options = keyed()
      const work = vi.fn(async () => ({ id: 7, list: [null, 'ä', 0.1], nested: { b: 1, a: 2 } }))
      const value = await work()
      expect(await idempotently(tenancy, options, work)).toEqual({ value, replayed: false })
      expect(await idempotently(tenancy, options, work)).toEqual({ value, replayed: true })
      expect(work).toHaveBeenCalledTimes(2)
      expect((await idempotently(tenancy, keyed(), work)).replayed).toBe(false)
    })
  })

  test('another request under the key is a conflict, the same one in another order is not', async ({
    db,
  }) => {
    await enter(db, async (tenancy) => {
      const key = uuidV7()
      await idempotently(tenancy, { key, request: { a: 1, b: [{ c: 2, d: 3 }] } }, async () => 1)
      const again = { key, request: { b: [{ d: 3, c: 2 }], a: 1, e: undefined } }
      expect(await idempotently(tenancy, again, async () => 2)).toEqual({
        value: 1,
        replayed: true,
      })
      for (const request of [{ a: 1 }, { a: 1, b: [{ c: 2, d: '3' }] }, [], null, 'x']) {
        await expect(idempotently(tenancy, { key, request }, async () => 2)).rejects.toMatchObject({
          ...{ name: 'IdempotencyError', reason: 'conflict', key },
        })
      }
    })
  })

  test('what the work throws is thrown, and the key is free', async ({ db }) => {
    await enter(db, async (tenancy) => {
      const options = keyed()
      const failed = idempotently(tenancy, options, async () => {
        throw new RangeError('of the work')
      })
      await expect(failed).rejects.toThrow(RangeError)
      const { value } = await idempotently(tenancy, options, async ({ attempts }) => attempts)
      expect(value).toBe(1)
    })
  })

  test('an answer that cannot be kept is given once', async ({ db }) => {
    await enter(db, async (tenancy) => {
      const circle: Record<string, unknown> = {}
      circle.self = circle
      const unkept = [1n, circle, Number.NaN, () => {}, 'x'.repeat(65_535), 'a\0', '\ud800']
      for (const answer of unkept) {
        const options = keyed()
        expect(await idempotently(tenancy, options, async () => answer)).toEqual({
          ...{ value: answer, replayed: false },
        })
        await expect(idempotently(tenancy, options, async () => answer)).rejects.toMatchObject({
          reason: 'not_kept',
        })
      }
      for (const answer of [undefined, null, false, 0, '', 'x'.repeat(65_534), []]) {
        const options = keyed()
        await idempotently(tenancy, options, async () => answer)
        expect(await idempotently(tenancy, options, async () => 'other')).toEqual({
          ...{ value: answer, replayed: true },
        })
      }
      const options = keyed({ maxResponseBytes: 3 })
      await idempotently(tenancy, options, async () => 'ä')
      await expect(idempotently(tenancy, options, async () => 1)).rejects.toThrow(/too large/)
    })
  })

  test('a call within the same work is told that it is in progress', async ({ db }) => {
    await enter(db, async (tenancy) => {
      const options = keyed({ leaseMs: 20_000 })
      await idempotently(tenancy, options, async () => {
        await expect(idempotently(tenancy, options, async () => 1)).rejects.toMatchObject({
          ...{ reason: 'in_progress', retryAfterMs: expect.closeTo(20_000, -4) },
        })
      })
    })
  })
})

describe('whose a key is', () => {
  test('each user, the service and each organization has the own ones', async ({ db }) => {
    const options = keyed()
    const scope = await makeScope(db)
    const tenancies: Tenancy[] = [
      { db, ...scope },
      { db, ...(await joinScope(db, scope)) },
      { db, ...(await joinScope(db, scope, 'admin')) },
      { db, organizationId: scope.organizationId },
      { db, ...(await makeScope(db)) },
    ]
    for (const [at, tenancy] of tenancies.entries()) {
      expect(await idempotently(tenancy, options, async () => at)).toEqual({
        ...{ value: at, replayed: false },
      })
    }
    for (const [at, tenancy] of tenancies.entries()) {
      expect((await idempotently(tenancy, options, async () => -1)).value).toBe(at)
    }
  })

  test('nobody reads the rows themselves', async ({ db }) => {
    await asService(db, (await makeScope(db)).organizationId, async (tenant) => {
      await idempotently(tenant, keyed(), async () => 1)
      const read = tenant.db.transaction((tx) => tx.select().from(idempotencyKeys))
      await expect(read).rejects.toThrow()
    })
  })
})

describe('the fingerprint', () => {
  test('is the same for the same JSON, and another one for any other', async () => {
    const scope = await makeScope(root)
    const tenancy = { db: root, ...scope }
    await fc.assert(
      fc.asyncProperty(
        fc.jsonValue({ maxDepth: 3 }),
        fc.jsonValue({ maxDepth: 3 }),
        async (a, b) => {
          const key = uuidV7()
          // As JSON has it: without -0, and in another order.
          const reversed = (at: unknown): unknown =>
            Array.isArray(at)
              ? at.map(reversed)
              : typeof at === 'object' && at !== null
                ? Object.fromEntries(
                    Object.entries(at)
                      .reverse()
                      .map(([k, v]) => [k, reversed(v)]),
                  )
                : at
          await idempotently(tenancy, { key, request: a }, async () => 1)
          const again = { key, request: reversed(a) }
          expect((await idempotently(tenancy, again, async () => 2)).replayed).toBe(true)
          const outcome = await idempotently(tenancy, { key, request: b }, async () => 2).then(
            () => 'replayed',
            (error: IdempotencyError) => error.reason,
          )
          const text = (at: unknown) => JSON.parse(JSON.stringify(at))
          const same = (() => {
            try {
              expect(text(a)).toEqual(text(b))
              return true
            } catch {
              return false
            }
          })()
          expect(outcome).toBe(same ? 'replayed' : 'conflict')
        },
      ),
      { numRuns: 60 },
    )
  })
})

test('bad arguments are refused before any SQL', async ({ db }) => {
  await inTenant(db, await makeScope(db), async (tenant) => {
    const work = vi.fn(async () => 1)
    const refused: Partial<IdempotentlyOptions>[] = [
      ...[{ key: '' }, { key: 'x'.repeat(201) }, { key: 'a\0' }, { key: 1 as unknown as string }],
      ...[{ request: undefined }, { request: 1n }, { request: { a: Number.NaN } }],
      ...[{ leaseMs: 99 }, { leaseMs: 1e9 }, { retentionMs: 0 }, { waitMs: Number.NaN }],
      ...[{ maxResponseBytes: 1_000_001 }, { retentionMs: 1e12 }],
    ]
    for (const options of refused) {
      await expect(idempotently(tenant, keyed(options), work)).rejects.toThrow(ValidationError)
    }
    await expect(checkClaim(tenant, { key: 'a', id: 'b' })).rejects.toThrow(ValidationError)
    expect(work).not.toHaveBeenCalled()
    await idempotently(tenant, keyed(), work)
  })
})

describe('a holder', () => {
  test('that is at work keeps the key for longer than its lease', async () => {
    const tenancy = { db: root, ...(await makeScope(root)) }
    const options = keyed({ leaseMs: 1_500 })
    let first: Promise<Idempotent<boolean>> | undefined
    await new Promise<void>((isHeld) => {
      first = idempotently(tenancy, options, async ({ signal }) => {
        isHeld()
        await pause(3_000)
        return signal.aborted
      })
    })
    const second = idempotently(tenancy, { ...options, waitMs: 10_000 }, async () => 'second')
    expect(await first).toEqual({ value: false, replayed: false })
    expect(await second).toEqual({ value: false, replayed: true })
  })

  test('that is too slow loses the key, and cannot complete it', async () => {
    const tenancy = { db: root, ...(await makeScope(root)) }
    const options = keyed({ leaseMs: 1_500 })
    const slow = idempotently(tenancy, options, async ({ signal, id, key }) => {
      await age(options.key, 'lease')
      expect(await idempotently(tenancy, options, async ({ attempts }) => attempts)).toEqual({
        ...{ value: 2, replayed: false },
      })
      await expect(
        inTenant(root, tenancy, (tenant) => checkClaim(tenant, { key, id })),
      ).rejects.toMatchObject({ reason: 'lost' })
      await aborted(signal)
      expect(signal.reason).toBeInstanceOf(IdempotencyError)
      return 'slow'
    })
    await expect(slow).rejects.toMatchObject({ reason: 'lost' })
    expect((await idempotently(tenancy, options, async () => 'again')).value).toBe(2)
  })

  test('that lost the key and fails does not free what another one has completed', async () => {
    const tenancy = { db: root, ...(await makeScope(root)) }
    const options = keyed()
    const late = idempotently(tenancy, options, async () => {
      await age(options.key, 'lease')
      await idempotently(tenancy, options, async () => 'done')
      throw new RangeError('late')
    })
    await expect(late).rejects.toThrow(RangeError)
    expect((await idempotently(tenancy, options, async () => 'again')).value).toBe('done')
  })

  test('has to be asked for in a transaction', async () => {
    const tenancy = { db: root, ...(await makeScope(root)) }
    await idempotently(tenancy, keyed(), async (claim) => {
      const outside = { ...tenancy } as unknown as Parameters<typeof checkClaim>[0]
      await expect(checkClaim(outside, claim)).rejects.toThrow(TransactionError)
      await inTenant(root, tenancy, (tenant) => checkClaim(tenant, claim))
    })
  })

  test('of another request keeps its key after its death, until that expires', async () => {
    const tenancy = { db: root, ...(await makeScope(root)) }
    const options = keyed()
    const other = { ...options, request: 'another' }
    await idempotently(tenancy, options, async () => 'first')
    await age(options.key, 'lease')
    await expect(idempotently(tenancy, other, async () => 1)).rejects.toMatchObject({
      reason: 'conflict',
    })
    await age(options.key, 'answer')
    expect(await idempotently(tenancy, other, async ({ attempts }) => attempts)).toEqual({
      ...{ value: 1, replayed: false },
    })
    const [row] = await rowsUnder(owner, options.key)
    expect(row).toMatchObject({ state: 'completed', response: 1, attempts: 1 })
  })
})

describe('within a scope', () => {
  test('a transaction that rolls back frees the key with what it did', async ({ db }) => {
    const scope = await makeScope(db)
    const options = keyed()
    const undone = inTenant(db, scope, async (tenant) => {
      await idempotently(tenant, options, () => recordActivity(tenant, { action: 'a.b' }))
      throw new RangeError('undone')
    })
    await expect(undone).rejects.toThrow(RangeError)
    await inTenant(db, scope, async (tenant) => {
      const work = () => recordActivity(tenant, { action: 'a.b' })
      expect((await idempotently(tenant, options, work)).replayed).toBe(false)
      expect(await listActivity(tenant)).toHaveLength(1)
    })
  })
})

describe.skipIf(!url)('among sessions', () => {
  const effects = (scope: Scope) => inTenant(root, scope, (tenant) => listActivity(tenant))
  const record = (db: Database, scope: Scope) =>
    inTenant(db, scope, (tenant) => recordActivity(tenant, { action: 'once.done' }))

  /** Opens the connections, so that what follows is at once indeed. */
  const warm = (db: Database) =>
    Promise.all(Array.from({ length: 20 }, () => rowsOf(db, sql`select pg_sleep(0.1)`)))

  test('200 calls at once have one effect, and 199 its answer', async () => {
    const db = await connect(url ?? '', { maxConnections: 20, acquireTimeoutMs: 60_000 })
    await warm(db)
    const [scope, other] = [await makeScope(db), await makeScope(db)]
    const options = keyed({ waitMs: 30_000 })
    const call = (of: Scope, request: unknown = options.request) =>
      idempotently({ db, ...of }, { ...options, request }, async () => {
        await pause(100)
        return record(db, of)
      })
    const answers = await Promise.all(Array.from({ length: 200 }, () => call(scope)))

    const [effect, ...more] = await effects(scope)
    expect(more).toEqual([])
    expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1)
    expect(new Set(answers.map(({ value }) => value))).toEqual(new Set([effect?.id]))
    await expect(call(scope, { amount: 2 })).rejects.toMatchObject({ reason: 'conflict' })
    expect((await call(other)).replayed).toBe(false)
    expect(await effects(other)).toHaveLength(1)
    await db.close()
  }, 60_000)

  test('also when each is in a transaction of its own', async () => {
    const db = await connect(url ?? '', { maxConnections: 20, acquireTimeoutMs: 60_000 })
    await warm(db)
    const scope = await makeScope(db)
    const options = keyed({ waitMs: 30_000 })
    const answers = await Promise.all(
      Array.from({ length: 200 }, () =>
        inTenant(db, scope, (tenant) =>
          idempotently(tenant, options, async () => {
            await pause(100)
            return recordActivity(tenant, { action: 'once.done' })
          }),
        ),
      ),
    )
    expect(await effects(scope)).toHaveLength(1)
    expect(answers.filter(({ replayed }) => replayed)).toHaveLength(199)
    await db.close()
  }, 60_000)

  test('a call that cannot wait is told so, and keeps its transaction', async () => {
    const db = await connect(url ?? '', { maxConnections: 4 })
    const scope = await makeScope(db)
    const options = keyed()
    await inTenant(db, scope, (tenant) =>
      idempotently(tenant, options, async () => {
        await inTenant(db, scope, async (late) => {
          await expect(idempotently(late, options, async () => 1)).rejects.toMatchObject({
            ...{ reason: 'in_progress', retryAfterMs: 1_000 },
          })
          const [timeout] = await rowsOf(late.db, sql`show lock_timeout`)
          expect(timeout).toEqual({ lock_timeout: '0' })
          await recordActivity(late, { action: 'went.on' })
        })
      }),
    )
    expect(await effects(scope)).toMatchObject([{ action: 'went.on' }])
    await db.close()
  })

  test('what was done is stored as soon as the database is back', async () => {
    const proxy = await openProxy(url ?? '')
    const db = await connect(proxy.url, { maxConnections: 2, connectTimeoutMs: 2_000 })
    const scope = await makeScope(root)
    const options = keyed({ leaseMs: 10_000 })
    let returned: Promise<void> | undefined
    const done = await idempotently({ db, ...scope }, options, async () => {
      proxy.refuse()
      proxy.drop()
      returned = pause(600).then(proxy.accept)
      return 'done'
    })
    expect(done).toEqual({ value: 'done', replayed: false })
    await returned
    const again = await idempotently({ db: root, ...scope }, options, async () => 'again')
    expect(again).toEqual({ value: 'done', replayed: true })

    await db.close()
    await proxy.close()
  }, 30_000)

  test('storing it twice is storing it once', async () => {
    const scope = await makeScope(root)
    const options = keyed()
    // As if the answer of a first attempt had been lost on its way.
    const work = async ({ key, id }: Claim) => {
      const store = sql`select ops.complete_key(${key}, ${id}::uuid, '"done"', true, 60000)`
      await inTenant(root, scope, ({ db }) => rowsOf(db, store))
      return 'done'
    }
    const done = { value: 'done', replayed: false }
    expect(await idempotently({ db: root, ...scope }, options, work)).toEqual(done)
    expect((await idempotently({ db: root, ...scope }, options, work)).replayed).toBe(true)
  })

  test('a database that is away for longer than the lease is an error', async () => {
    const proxy = await openProxy(url ?? '')
    const db = await connect(proxy.url, { maxConnections: 2, connectTimeoutMs: 2_000 })
    const scope = await makeScope(root)
    const failed = idempotently({ db, ...scope }, keyed({ leaseMs: 500 }), async () => {
      proxy.refuse()
      proxy.drop()
    })
    await expect(failed).rejects.toThrow(ConnectionError)
    await db.close()
    await proxy.close()
  }, 30_000)

  test('a completed key never goes back, whoever claims, extends, completes and releases', async () => {
    const db = await connect(url ?? '', { maxConnections: 10, acquireTimeoutMs: 60_000 })
    const scope = await makeScope(db)
    const tenancy = { db, ...scope }
    const options = keyed({ leaseMs: 500, waitMs: 20_000 })
    // Holders whose leases are cut short time and again, all at once.
    const claims: Claim[] = []
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, at) =>
        idempotently(tenancy, options, async (claim) => {
          claims.push(claim)
          if (claims.length < 5) await age(options.key, 'lease')
          await pause(at % 3 === 0 ? 700 : 20)
          if (at % 4 === 0) throw new RangeError('of the work')
          return claim.id
        }).then(
          ({ value }) => value,
          (error: unknown) => error,
        ),
      ),
    )
    const values = answers.filter((answer) => typeof answer === 'string')
    expect(new Set(values).size).toBe(1)
    const [row, ...others] = await rowsUnder(owner, options.key)
    expect(others).toEqual([])
    expect(row).toMatchObject({ state: 'completed', response: values[0] })
    await db.close()
  }, 60_000)

  test('a holder that is killed frees the key after its lease, and not before', async () => {
    const scope = await makeScope(root)
    const options = { key: uuidV7(), request: 1 }
    const child = runChild('guard-child', [url ?? '', ...Object.values(scope), 'key', options.key])
    await child.said('held')
    child.signal('SIGKILL')
    const tenancy = { db: root, ...scope }
    await expect(idempotently(tenancy, options, async () => 1)).rejects.toMatchObject({
      reason: 'in_progress',
    })
    expect(
      await idempotently(tenancy, { ...options, waitMs: 10_000 }, async (claim) => claim.attempts),
    ).toEqual({ value: 2, replayed: false })
    expect(await child.ended()).toEqual(['held'])
  }, 30_000)

  test('one that is stopped past its lease, and goes on, neither writes nor completes', async () => {
    const scope = await makeScope(root)
    const options = { key: uuidV7(), request: 1, waitMs: 10_000 }
    const child = runChild('guard-child', [url ?? '', ...Object.values(scope), 'key', options.key])
    await child.said('held')
    child.signal('SIGSTOP')
    await idempotently({ db: root, ...scope }, options, async (claim) => {
      child.signal('SIGCONT')
      expect(await child.ended()).toEqual(['held', 'aborted', 'IdempotencyError lost'])
      await inTenant(root, scope, async (tenant) => {
        await checkClaim(tenant, claim)
        await recordActivity(tenant, { action: 'parent.wrote' })
      })
    })
    expect(await effects(scope)).toMatchObject([{ action: 'parent.wrote' }])
    const [row] = await owner
      .select()
      .from(idempotencyKeys)
      .where(
        and(
          eq(idempotencyKeys.organizationId, scope.organizationId),
          eq(idempotencyKeys.key, options.key),
        ),
      )
    expect(row).toMatchObject({ state: 'completed', attempts: 2, userId: scope.userId })
  }, 30_000)
})
