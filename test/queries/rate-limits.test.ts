import { setTimeout as pause } from 'node:timers/promises'
import { eq, sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { connect, type Database } from '../../src/database.ts'
import { ForbiddenError, ValidationError } from '../../src/errors.ts'
import {
  type TakenTokens,
  type TakePublicTokensOptions,
  takePublicTokens,
  takeTokens,
} from '../../src/queries/rate-limits.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { publicRateLimits, rateLimits } from '../../src/schema/ops.ts'
import { asService, inTenant, type Tenancy } from '../../src/tenant.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/database.ts'

type Take = (bucket: TakePublicTokensOptions) => Promise<TakenTokens>

const places: Record<string, (db: Database, work: (take: Take) => Promise<void>) => unknown> = {
  'the public': async (db, work) => work((bucket) => takePublicTokens(db, bucket)),
  'an organization, out of scope': async (db, work) => {
    const tenancy = { db, ...(await makeScope(db)) }
    await work((bucket) => takeTokens(tenancy, bucket))
  },
  'a user, out of scope': async (db, work) => {
    const tenancy = { db, ...(await makeScope(db)) }
    await work((bucket) => takeTokens(tenancy, { ...bucket, per: 'user' }))
  },
  'a viewer, in scope': async (db, work) =>
    inTenant(db, await joinScope(db, await makeScope(db), 'viewer'), (tenant) =>
      work((bucket) => takeTokens(tenant, { ...bucket, per: 'user' })),
    ),
  'a service, in scope': async (db, work) =>
    asService(db, (await makeScope(db)).organizationId, (tenant) =>
      work((bucket) => takeTokens(tenant, bucket)),
    ),
}

const bucketOf = (options: Partial<TakePublicTokensOptions> = {}) => ({
  ...{ key: uuidV7(), capacity: 3, refillPerSecond: 0 },
  ...options,
})

/** As if the bucket had been filled so long ago; negative: as if the clock had gone back since. */
async function age(db: Database, key: string, ms: number) {
  for (const table of [rateLimits, publicRateLimits]) {
    const refilledAt = sql`${table.refilledAt} - ${ms}::integer * interval '1 millisecond'`
    await db.update(table).set({ refilledAt }).where(eq(table.key, key))
  }
}

describe.each(Object.entries(places))('a bucket of %s', (_, enter) => {
  test('gives what is in it, and no more', async ({ db }) => {
    await enter(db, async (take) => {
      const bucket = bucketOf()
      const taken: TakenTokens[] = []
      for (let call = 0; call < 5; call += 1) taken.push(await take(bucket))
      expect(taken).toEqual([
        { granted: true, remaining: 2, retryAfterMs: 0 },
        { granted: true, remaining: 1, retryAfterMs: 0 },
        { granted: true, remaining: 0, retryAfterMs: 0 },
        { granted: false, remaining: 0, retryAfterMs: 2 ** 31 - 1 },
        { granted: false, remaining: 0, retryAfterMs: 2 ** 31 - 1 },
      ])
      expect((await take(bucketOf())).remaining).toBe(2)
    })
  })

  test('a denied call spends nothing, and says when to come again', async ({ db }) => {
    await enter(db, async (take) => {
      const bucket = bucketOf({ capacity: 10, refillPerSecond: 0.05, cost: 7 })
      await take(bucket)
      for (let call = 0; call < 20; call += 1) {
        const denied = await take(bucket)
        expect(denied.granted).toBe(false)
        // Four are missing, at twenty seconds each.
        expect(denied.retryAfterMs).toBeGreaterThan(60_000)
        expect(denied.retryAfterMs).toBeLessThanOrEqual(80_000)
      }
      expect((await take({ ...bucket, cost: 3 })).granted).toBe(true)
    })
  })

  test('whoever comes again when told is granted', async ({ db }) => {
    await enter(db, async (take) => {
      const bucket = bucketOf({ capacity: 1, refillPerSecond: 1 })
      expect((await take(bucket)).granted).toBe(true)
      const { granted, retryAfterMs } = await take(bucket)
      expect(granted).toBe(false)
      await pause(retryAfterMs + 2)
      expect((await take(bucket)).granted).toBe(true)
    })
  })
})

describe('whose a bucket is', () => {
  test('per organization or per user, beside each other', async ({ db }) => {
    const one = await makeScope(db)
    const two = await joinScope(db, one)
    const bucket = bucketOf({ capacity: 1 })
    const take = async (tenancy: Omit<Tenancy, 'db'>, per: 'user' | 'organization') =>
      (await takeTokens({ db, ...tenancy }, { ...bucket, per })).granted
    expect(await take(one, 'organization')).toBe(true)
    expect(await take(two, 'organization')).toBe(false)
    expect(await take({ organizationId: one.organizationId }, 'organization')).toBe(false)
    expect(await take(one, 'user')).toBe(true)
    expect(await take(two, 'user')).toBe(true)
    expect(await take(one, 'user')).toBe(false)
    expect(await take(await makeScope(db), 'organization')).toBe(true)
  })

  test('nobody in a scope fills it up, or takes from the public', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const filled = tenant.db.transaction((tx) => tx.delete(rateLimits))
      await expect(filled).rejects.toThrow()
      const taken = tenant.db.transaction((tx) => takePublicTokens(tx, bucketOf()))
      await expect(taken).rejects.toThrow(ForbiddenError)
    })
  })
})

describe('the clock', () => {
  test('gives what it has gone on by, and never more than the bucket holds', async () => {
    const bucket = bucketOf({ capacity: 5, refillPerSecond: 0.1, cost: 5 })
    await takePublicTokens(root, bucket)
    await age(owner, bucket.key, 20_000)
    const { remaining } = await takePublicTokens(root, { ...bucket, cost: 2 })
    expect(remaining).toBeLessThan(0.9)
    await age(owner, bucket.key, 1_000_000_000)
    expect(await takePublicTokens(root, { ...bucket, cost: 1 })).toMatchObject({ remaining: 4 })
  })

  test('takes nothing when it goes back', async () => {
    const bucket = bucketOf({ capacity: 5, refillPerSecond: 1 })
    await takePublicTokens(root, bucket)
    await age(owner, bucket.key, -60_000)
    expect(await takePublicTokens(root, bucket)).toMatchObject({ granted: true, remaining: 3 })
    const denied = await takePublicTokens(root, { ...bucket, cost: 4 })
    expect(denied.granted).toBe(false)
    expect(denied.retryAfterMs).toBeGreaterThan(45_000)
    expect(denied.retryAfterMs).toBeLessThanOrEqual(61_000)
  })

  test('of a bucket of another size than before, there is no more than fits', async ({ db }) => {
    const bucket = bucketOf({ capacity: 100 })
    await takePublicTokens(db, bucket)
    expect(await takePublicTokens(db, { ...bucket, capacity: 5 })).toMatchObject({ remaining: 4 })
  })
})

test('fractions add up exactly', async ({ db }) => {
  const bucket = bucketOf({ capacity: 1, cost: 0.1 })
  for (let call = 0; call < 10; call += 1) {
    expect((await takePublicTokens(db, bucket)).granted).toBe(true)
  }
  expect(await takePublicTokens(db, bucket)).toMatchObject({ granted: false, remaining: 0 })
})

test('any size is served', async ({ db }) => {
  for (const capacity of [1e-9, 1e9]) {
    for (const refillPerSecond of [0, 5e-324, 1e-9, 1e9]) {
      const bucket = bucketOf({ capacity, refillPerSecond, cost: capacity })
      expect((await takePublicTokens(db, bucket)).granted).toBe(true)
      const { retryAfterMs } = await takePublicTokens(db, bucket)
      expect(retryAfterMs).toBeLessThan(2 ** 31)
    }
  }
})

test('bad arguments are refused before any SQL', async ({ db }) => {
  const refused: Partial<TakePublicTokensOptions>[] = [
    ...[{ key: '' }, { key: 'x'.repeat(201) }, { key: 'a\0' }],
    ...[{ capacity: 0 }, { capacity: Number.NaN }, { capacity: 1e10 }],
    ...[{ refillPerSecond: -1 }, { refillPerSecond: Number.POSITIVE_INFINITY }],
    ...[{ cost: 0 }, { cost: -1 }, { cost: 3.1 }, { cost: Number.NaN }],
  ]
  await inTenant(db, await makeScope(db), async (tenant) => {
    for (const options of refused) {
      await expect(takeTokens(tenant, bucketOf(options))).rejects.toThrow(ValidationError)
      await expect(takePublicTokens(tenant.db, bucketOf(options))).rejects.toThrow(ValidationError)
    }
    await takeTokens(tenant, bucketOf())
  })
  await asService(db, (await makeScope(db)).organizationId, async (tenant) => {
    await expect(takeTokens(tenant, { ...bucketOf(), per: 'user' })).rejects.toThrow(
      ValidationError,
    )
  })
})

describe.skipIf(!url)('1,000 calls at once', () => {
  test('of a bucket of 100 that is not refilled: 100 are granted', async () => {
    const db = await connect(url ?? '', { maxConnections: 50, acquireTimeoutMs: 60_000 })
    const scope = await makeScope(db)
    const bucket = bucketOf({ capacity: 100 })
    for (const take of [
      () => takeTokens({ db, ...scope }, bucket),
      () => takePublicTokens(db, bucket),
    ]) {
      const answers = await Promise.all(Array.from({ length: 1_000 }, take))
      expect(answers.filter(({ granted }) => granted)).toHaveLength(100)
      expect(new Set(answers.map(({ granted, remaining }) => granted && remaining)).size).toBe(101)
    }
    await db.close()
  }, 60_000)

  test('of one that is: what was in it and what came, to the token', async () => {
    const db = await connect(url ?? '', { maxConnections: 50, acquireTimeoutMs: 60_000 })
    const bucket = bucketOf({ capacity: 100, refillPerSecond: 40 })
    let granted = 0
    const take = async (cost = 1) => {
      const taken = await takePublicTokens(db, { ...bucket, cost })
      if (taken.granted) granted += cost
      return taken
    }
    /** By its own clock: when it was last refilled, and what was left then. */
    const look = async () => {
      const where = eq(publicRateLimits.key, bucket.key)
      const [row] = await owner.select().from(publicRateLimits).where(where)
      return { at: row?.refilledAt.getTime() ?? 0, left: Number(row?.nanotokens) / 1e9 }
    }
    // So much that it is never full again, when what comes would be lost.
    await take(50)
    const first = await look()
    const end = performance.now() + 1_500
    await Promise.all(
      Array.from({ length: 1_000 }, async () => {
        do await take()
        while (performance.now() < end)
      }),
    )
    while ((await take()).granted);
    const last = await look()
    const came = 100 + (40 * (last.at - first.at)) / 1_000
    expect(came).toBeGreaterThan(150)
    expect(granted + last.left).toBeCloseTo(came, 6)
    expect(granted).toBeLessThanOrEqual(came)
    expect(granted).toBeGreaterThanOrEqual(came - 1)
    await db.close()
  }, 60_000)
})
