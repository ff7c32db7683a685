import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ForbiddenError, ValidationError } from '../../src/errors.ts'
import { rollUpUsage } from '../../src/lifecycle/usage-daily.ts'
import {
  listUsage,
  type RecordUsageOptions,
  recordUsage,
  recordUsages,
  spend,
} from '../../src/queries/costs.ts'
import { priceUsage } from '../../src/queries/prices.ts'
import { repriceUsage } from '../../src/queries/repricing.ts'
import { modelPrices } from '../../src/schema/costs.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { makeModelPrice } from '../../src/testing/costs.ts'
import { rollback } from '../../src/testing/database.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { root, test, url } from '../support/database.ts'

const since = new Date('2026-03-01T00:00:00Z')
const until = new Date('2026-04-01T00:00:00Z')
const noon = new Date('2026-03-10T12:00:00Z')
const call = { provider: 'test', model: 'test-model', operation: 'chat', inputTokens: 1_000 }

async function makeSpender(db: Database): Promise<Scope> {
  await rowsOf(
    db,
    sql`select partitions.create_months('costs', 'usage_events', '2026-01-01', '2026-12-01')`,
  )
  return makeScope(db)
}

const record = (db: Database, { organizationId }: Scope, usages: Partial<RecordUsageOptions>[]) =>
  asService(db, organizationId, (tenant) =>
    recordUsages(
      tenant,
      usages.map((usage) => ({ ...call, occurredAt: noon, ...usage })),
    ),
  )

const reprice = (db: Database, { organizationId }: Scope, dryRun = false) =>
  repriceUsage({ db, organizationId }, { since, until, dryRun })

const setPrice = (db: Database, nanosPerMillion: bigint) =>
  db.update(modelPrices).set({ nanosPerMillion })

const sums = (db: Database, { organizationId }: Scope) =>
  asService(db, organizationId, (tenant) => spend(tenant, { since, until }))

describe('repriceUsage', () => {
  test('shows what would change, and changes nothing', async ({ db }) => {
    const scope = await makeSpender(db)
    await makeModelPrice(db)
    await record(db, scope, [{}, { model: 'other' }, { inputTokens: 3, outputTokens: 0 }])
    await setPrice(db, 3_000_000_000n)

    const report = await reprice(db, scope, true)

    expect(report).toEqual({
      ...{ lines: 3, changed: 2, unpriced: 1, adjusted: 0, before: 1_003_000n, after: 3_009_000n },
      models: [
        {
          ...{ provider: 'test', model: 'test-model', lines: 2, changed: 2 },
          ...{ before: 1_003_000n, after: 3_009_000n },
        },
        { provider: 'test', model: 'other', lines: 1, changed: 0, before: 0n, after: 0n },
      ],
    })
    expect(await sums(db, scope)).toMatchObject([{ costNanos: 1_003_000n, events: 3 }])
  })

  test('appends the differences where the lines are, once, up and down', async ({ db }) => {
    const scope = await makeSpender(db)
    const { userId } = await joinScope(db, scope)
    await makeModelPrice(db)
    const [first] = await record(db, scope, [{ userId, endpoint: '/a' }])
    await asService(db, scope.organizationId, (tenant) => rollUpUsage(tenant))

    await setPrice(db, 3_000_000_000n)
    expect(await reprice(db, scope)).toMatchObject({ changed: 1, adjusted: 1 })
    expect(await reprice(db, scope)).toMatchObject({ lines: 1, changed: 0, adjusted: 0 })
    expect(await sums(db, scope)).toMatchObject([{ costNanos: 3_000_000n, events: 1 }])
    await setPrice(db, 500_000_000n)
    expect(await reprice(db, scope)).toMatchObject({ before: 3_000_000n, after: 500_000n })

    const lines = await asService(db, scope.organizationId, (tenant) => listUsage(tenant))
    const adjustment = {
      ...{ userId, endpoint: '/a', model: 'test-model', operation: 'adjustment', requests: 0 },
      ...{ adjustsId: first?.id, adjustsStatus: 'priced', occurredAt: noon, inputTokens: 0 },
    }
    expect(lines).toMatchObject([
      { ...adjustment, costNanos: -2_500_000n },
      { ...adjustment, costNanos: 2_000_000n },
      { id: first?.id, costNanos: 1_000_000n, adjustsId: null },
    ])
    const expected = [{ userId, costNanos: 500_000n, events: 1, unpriced: 0, tokens: 1_000 }]
    const byUser = () =>
      asService(db, scope.organizationId, (tenant) => spend(tenant, { since, until, by: 'user' }))
    expect(await byUser()).toEqual(expected)
    await asService(db, scope.organizationId, (tenant) => rollUpUsage(tenant))
    expect(await byUser()).toEqual(expected)
  })

  test('gives a price to what had none, which is no more unpriced then', async ({ db }) => {
    const scope = await makeSpender(db)
    await record(db, scope, [{}, { model: 'other' }])
    expect(await sums(db, scope)).toMatchObject([{ costNanos: 0n, events: 2, unpriced: 2 }])
    await makeModelPrice(db)

    expect(await reprice(db, scope)).toMatchObject({ changed: 1, adjusted: 1, unpriced: 1 })
    const priced = [{ costNanos: 1_000_000n, events: 2, unpriced: 1, tokens: 2_000 }]
    expect(await sums(db, scope)).toEqual(priced)
    await setPrice(db, 2_000_000_000n)
    await reprice(db, scope)
    expect(await sums(db, scope)).toMatchObject([{ costNanos: 2_000_000n, unpriced: 1 }])
    await asService(db, scope.organizationId, (tenant) => rollUpUsage(tenant))
    expect(await sums(db, scope)).toMatchObject([{ costNanos: 2_000_000n, unpriced: 1 }])
  })

  test('leaves alone what was given, and what has no price any more', async ({ db }) => {
    const scope = await makeSpender(db)
    await makeModelPrice(db)
    await record(db, scope, [{ costNanos: 7n }, { costNanos: 7n, status: 'priced' }, {}])
    await db.delete(modelPrices)

    const none = { lines: 1, changed: 0, unpriced: 1, adjusted: 0, before: 0n, after: 0n }
    expect(await reprice(db, scope)).toMatchObject(none)
    expect(await sums(db, scope)).toMatchObject([{ costNanos: 1_000_014n, unpriced: 0 }])
  })

  test('goes through more lines than a batch, of one instant as well', async ({ db }) => {
    const scope = await makeSpender(db)
    for (let batch = 0; batch < 3; batch += 1) {
      await record(
        db,
        scope,
        Array.from({ length: 700 }, (_, at) => ({ inputTokens: at })),
      )
    }
    await makeModelPrice(db)
    const seen: number[] = []

    const report = await repriceUsage(
      { db, organizationId: scope.organizationId },
      { since, until, dryRun: false, onProgress: ({ lines }) => seen.push(lines) },
    )

    expect(report).toMatchObject({ lines: 2_100, adjusted: 2_100, after: 3n * 244_650_000n })
    expect(seen).toEqual([1_000, 2_000])
    expect(await reprice(db, scope)).toMatchObject({ lines: 2_100, changed: 0 })
  })

  test('is for admins and services', async ({ db }) => {
    const scope = await makeSpender(db)
    const [member, admin] = [await joinScope(db, scope), await joinScope(db, scope, 'admin')]
    const [line] = await record(db, scope, [{ userId: member.userId }])
    const as = (who: Scope) =>
      db.transaction((tx) => repriceUsage({ db: tx, ...who }, { since, until }))

    await expect(as(member)).rejects.toBeInstanceOf(ForbiddenError)
    expect(await as(admin)).toMatchObject({ lines: 1 })
    // Nor by SQL.
    const lower = db.transaction((tx) =>
      inTenant(tx, member, (tenant) =>
        rowsOf(
          tenant.db,
          sql`insert into costs.usage_events (organization_id, id, user_id, provider, model, operation, status,
              cost_nanos, adjusts_id, adjusts_status, occurred_at)
            values (${scope.organizationId}, gen_random_uuid(), ${member.userId}, 'test', 'a', 'adjustment', 'priced',
              -5, ${line?.id}, 'priced', ${noon})`,
        ),
      ),
    )
    await expect(lower).rejects.toBeInstanceOf(ForbiddenError)
    const key = { ...call, idempotencyKey: `plinth.adjustment ${line?.id} 1` }
    await inTenant(db, member, async (tenant) => {
      await expect(recordUsage(tenant, key)).rejects.toBeInstanceOf(ValidationError)
    })
  })

  test('refuses before any SQL', async ({ db }) => {
    const tenancy = { db, organizationId: (await makeSpender(db)).organizationId }
    for (const bad of [{ since: new Date(Number.NaN) }, { until: 1 }, { model: '' }]) {
      const options = { since, ...bad } as Parameters<typeof repriceUsage>[1]
      await expect(repriceUsage(tenancy, options)).rejects.toBeInstanceOf(ValidationError)
    }
  })

  test('comes to what priceUsage says, whatever the prices were', async () => {
    const price = fc.bigInt({ min: 0n, max: 10n ** 12n })
    const counts = fc.record({
      inputTokens: fc.integer({ min: 100, max: 10_000_000 }),
      cacheReadTokens: fc.integer({ min: 0, max: 100 }),
    })
    await fc.assert(
      fc.asyncProperty(
        fc.array(counts, { minLength: 1, maxLength: 20 }),
        fc.array(price, { minLength: 1, maxLength: 4 }),
        async (lines, prices) => {
          await rollback(root, async (db) => {
            const scope = await makeSpender(db)
            const { nanosPerMillion: _, ...made } = await makeModelPrice(db)
            await record(db, scope, lines)
            for (const nanosPerMillion of prices) {
              await setPrice(db, nanosPerMillion)
              await reprice(db, scope)
              const expected = lines.reduce(
                (sum, line) =>
                  sum +
                  (priceUsage([{ ...made, nanosPerMillion }], { ...line, at: noon }).costNanos ??
                    0n),
                0n,
              )
              expect((await sums(db, scope))[0]?.costNanos).toBe(expected)
            }
          })
        },
      ),
      { numRuns: 10 },
    )
  })
})

test.skipIf(!url)('four at once adjust each line once', async () => {
  const scope = await makeScope(root)
  const model = `m-${scope.organizationId}`
  const { organizationId } = scope
  const now = new Date()
  await asService(root, organizationId, (tenant) =>
    recordUsages(
      tenant,
      Array.from({ length: 300 }, () => ({ ...call, model, occurredAt: now })),
    ),
  )
  await makeModelPrice(root, { model })

  const options = { since: new Date(now.getTime() - 1_000), dryRun: false }
  const reports = await Promise.all(
    [1, 2, 3, 4].map(() => repriceUsage({ db: root, organizationId }, options)),
  )

  expect(reports.reduce((sum, { adjusted }) => sum + adjusted, 0)).toBe(300)
  const [sum] = await asService(root, organizationId, (tenant) =>
    spend(tenant, { since: options.since }),
  )
  expect(sum).toMatchObject({ costNanos: 300_000_000n, events: 300, unpriced: 0 })
})
