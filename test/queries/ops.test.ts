import { inArray, sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import type { Database } from '../../src/database.ts'
import { ForbiddenError, ValidationError } from '../../src/errors.ts'
import { acquireLock, releaseLock } from '../../src/queries/locks.ts'
import { purgeOps } from '../../src/queries/ops.ts'
import { takeTokens } from '../../src/queries/rate-limits.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import {
  idempotencyKeys,
  locks,
  publicRateLimits,
  rateLimits,
  tenantLocks,
} from '../../src/schema/ops.ts'
import { inTenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeScope } from '../../src/testing/factories.ts'
import {
  makeIdempotencyKey,
  makeLock,
  makePublicRateLimit,
  makeRateLimit,
  makeTenantLock,
} from '../../src/testing/ops.ts'
// All that is old in the table is deleted: with a database of its own, it is this file's.
import { owner, root, test } from '../support/own-database.ts'

const PAST = sql`now() - interval '2 days'`

/** Lets rows say nothing any more, some of each kind. */
async function makeOld(db: Database) {
  const tenancy = { db, ...(await makeScope(db)) }
  const names = Array.from({ length: 5 }, () => uuidV7())
  for (const name of names) {
    await makeIdempotencyKey(tenancy, { key: name, answer: 'a' })
    await makeLock(db, name)
    await makeTenantLock(tenancy, name)
    await makeRateLimit(tenancy, name)
    await makePublicRateLimit(db, name)
  }
  return { tenancy, names, old: names.slice(2) }
}

/** As the owner, whom alone the rows obey; both are one session on PGlite and one transaction here. */
async function age(db: Database, names: string[]) {
  await db
    .update(idempotencyKeys)
    .set({ leasedUntil: PAST, expiresAt: PAST })
    .where(inArray(idempotencyKeys.key, names))
  for (const table of [locks, tenantLocks]) {
    await db.update(table).set({ leasedUntil: PAST }).where(inArray(table.name, names))
  }
  for (const table of [rateLimits, publicRateLimits]) {
    await db.update(table).set({ fullAt: PAST }).where(inArray(table.key, names))
  }
}

async function left(db: Database, names: string[]) {
  const keys = (rows: { key: string }[]) => rows.map(({ key }) => key).sort()
  const named = (rows: { name: string }[]) => rows.map(({ name }) => name).sort()
  return [
    keys(await db.select().from(idempotencyKeys).where(inArray(idempotencyKeys.key, names))),
    named(await db.select().from(locks).where(inArray(locks.name, names))),
    named(await db.select().from(tenantLocks).where(inArray(tenantLocks.name, names))),
    keys(await db.select().from(rateLimits).where(inArray(rateLimits.key, names))),
    keys(await db.select().from(publicRateLimits).where(inArray(publicRateLimits.key, names))),
  ]
}

describe('purgeOps', () => {
  test('deletes what says nothing any more, and nothing else', async () => {
    await rollback(owner, async (db) => {
      const { names, old } = await makeOld(db)
      await age(db, old)
      const purged = await purgeOps(db, { batch: 2 })
      expect(purged.idempotencyKeys).toBeGreaterThanOrEqual(3)
      expect(purged.locks).toBeGreaterThanOrEqual(6)
      expect(purged.rateLimits).toBeGreaterThanOrEqual(6)
      const kept = names.filter((name) => !old.includes(name)).sort()
      expect(await left(db, names)).toEqual([kept, kept, kept, kept, kept])
      expect(await purgeOps(db)).toEqual({ idempotencyKeys: 0, locks: 0, rateLimits: 0 })
    })
  })

  test('leaves a lock that is free for a shorter time, and a bucket that is never refilled', async () => {
    await rollback(owner, async (db) => {
      const tenancy = { db, ...(await makeScope(db)) }
      const name = uuidV7()
      const lock = await acquireLock(db, { name })
      if (lock) await releaseLock(db, lock)
      const bucket = { key: name, capacity: 1, refillPerSecond: 0 }
      await takeTokens(tenancy, bucket)
      const found = await db
        .select()
        .from(rateLimits)
        .where(inArray(rateLimits.key, [name]))
      expect(found).toMatchObject([{ fullAt: null }])
      await purgeOps(db)
      expect((await takeTokens(tenancy, bucket)).granted).toBe(false)
      expect(await left(db, [name])).toMatchObject([[], [name], [], [name], []])
    })
  })

  test('a lock that was purged gets a greater token than it had', async () => {
    await rollback(owner, async (db) => {
      const name = uuidV7()
      const before = await acquireLock(db, { name })
      await age(db, [name])
      expect((await purgeOps(db)).locks).toBeGreaterThanOrEqual(1)
      const after = await acquireLock(db, { name })
      expect(after?.token).toBeGreaterThan(before?.token ?? 0n)
    })
  })

  test('is for a service out of scope', async ({ db }) => {
    expect(await purgeOps(db)).toMatchObject({ locks: expect.any(Number) })
    await inTenant(db, await makeScope(db), async (tenant) => {
      await expect(tenant.db.transaction((tx) => purgeOps(tx))).rejects.toThrow(ForbiddenError)
    })
  })

  test('refuses what it cannot do', async () => {
    await expect(purgeOps(root, { batch: 0 })).rejects.toThrow(ValidationError)
    await expect(purgeOps(root, { lockAgeMs: 1_000 })).rejects.toThrow(ValidationError)
  })
})
