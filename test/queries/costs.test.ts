import { setTimeout } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ForbiddenError, MissingPartitionError, ValidationError } from '../../src/errors.ts'
import {
  listUsage,
  type RecordUsageOptions,
  recordUsage,
  recordUsages,
  spend,
  topCosts,
} from '../../src/queries/costs.ts'
import { closePrice, createPrice } from '../../src/queries/prices.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { makeModelPrice, makeUsageEvent } from '../../src/testing/costs.ts'
import { rollback } from '../../src/testing/database.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { root, test, url } from '../support/database.ts'

const since = new Date('2026-01-01T00:00:00Z')
const call = { provider: 'test', model: 'test-model', operation: 'chat', inputTokens: 1_000 }

/** Months that are there whenever the tests run. */
const makeMonths = (db: Database) =>
  rowsOf(
    db,
    sql`select partitions.create_months('costs', 'usage_events', '2026-01-01', '2026-12-01')`,
  )

/** An organization in whose scope the calls are recorded. */
async function makeSpender(db: Database): Promise<Scope> {
  await makeMonths(db)
  return makeScope(db)
}

describe('recordUsages', () => {
  test('freezes the cost, whatever the price becomes', async ({ db }) => {
    const scope = await makeSpender(db)
    const price = await makeModelPrice(db)

    const recorded = await inTenant(db, scope, (tenant) => makeUsageEvent(tenant))
    await closePrice(db, { id: price.id, validTo: new Date('2020-02-01') })
    await makeModelPrice(db, { validFrom: new Date('2020-02-01'), nanosPerMillion: 7n })

    expect(recorded).toMatchObject({ costNanos: 1_000_000n, status: 'priced', duplicate: false })
    const [event] = await inTenant(db, scope, (tenant) => listUsage(tenant))
    expect(event).toMatchObject({
      ...{ id: recorded.id, occurredAt: recorded.occurredAt, userId: scope.userId },
      ...{ costNanos: 1_000_000n, priceIds: [price.id], inputTokens: 1_000, requests: 1 },
    })
  })

  test('takes the price of the time of the call', async ({ db }) => {
    const scope = await makeSpender(db)
    const change = new Date('2026-03-01T00:00:00Z')
    await makeModelPrice(db, { validTo: change })
    await makeModelPrice(db, { validFrom: change, nanosPerMillion: 2_000_000_000n })

    const costs = await inTenant(db, scope, (tenant) =>
      recordUsages(tenant, [
        { ...call, occurredAt: new Date('2026-02-28T23:59:59.999Z') },
        { ...call, occurredAt: change },
        call,
      ]),
    )

    expect(costs.map(({ costNanos }) => costNanos)).toEqual([1_000_000n, 2_000_000n, 2_000_000n])
  })

  test('records what has no price as unpriced, and a given cost as an estimate or as billed', async ({
    db,
  }) => {
    const scope = await makeSpender(db)
    await makeModelPrice(db)

    const recorded = await inTenant(db, scope, (tenant) =>
      recordUsages(tenant, [
        { ...call, model: 'unknown' },
        { ...call, model: 'unknown', costNanos: 5n },
        { ...call, costNanos: 0n, status: 'priced' },
        { ...call, status: 'estimated' },
        { ...call, model: 'unknown', status: 'estimated' },
      ]),
    )

    expect(recorded.map(({ status, costNanos }) => [status, costNanos])).toEqual([
      ['unpriced', null],
      ['estimated', 5n],
      ['priced', 0n],
      ['estimated', 1_000_000n],
      ['unpriced', null],
    ])
  })

  test('answers in the order given, and keeps every field', async ({ db }) => {
    const scope = await makeSpender(db)
    const full = {
      ...{ provider: 'a', model: 'b', operation: 'c', endpoint: 'd', idempotencyKey: 'e' },
      ...{ projectId: uuidV7(), runId: uuidV7(), userId: null, metadata: { f: ['"\\'] } },
      ...{ inputTokens: 10, outputTokens: 9, cacheReadTokens: 3, cacheWriteTokens: 4 },
      ...{ reasoningTokens: 5, embeddingTokens: 6, images: 7, audioSeconds: 8, requests: 2 },
      ...{ latencyMs: 11, occurredAt: new Date('2026-05-01T00:00:00.123Z') },
      costNanos: 2n ** 63n - 1n,
    }

    const [first, second] = await inTenant(db, scope, (tenant) =>
      recordUsages(tenant, [full, { ...call, occurredAt: since }]),
    )

    const events = await inTenant(db, scope, (tenant) => listUsage(tenant))
    expect(events.map(({ id }) => id)).toEqual([first?.id, second?.id])
    expect(events[0]).toEqual({
      ...full,
      ...{ organizationId: scope.organizationId, id: first?.id, status: 'estimated', priceIds: [] },
      ...{ adjustsId: null, adjustsStatus: null },
    })
  })

  test('records a key once, in one batch and in a later one', async ({ db }) => {
    const scope = await makeSpender(db)
    await makeModelPrice(db)
    const keyed = (inputTokens: number, idempotencyKey: string) => ({
      ...{ ...call, inputTokens, idempotencyKey },
    })
    const record = (usages: RecordUsageOptions[]) =>
      inTenant(db, scope, (tenant) => recordUsages(tenant, usages))

    const [a, b, again] = await record([keyed(1, 'z'), keyed(2, 'b'), keyed(3, 'z')])
    const [late, c] = await record([keyed(4, 'z'), keyed(5, 'c')])

    expect(a).toMatchObject({ costNanos: 1_000n, duplicate: false })
    expect(again).toEqual({ ...a, duplicate: true })
    expect(late).toEqual({ ...a, duplicate: true })
    expect([b, c]).toMatchObject([{ costNanos: 2_000n }, { costNanos: 5_000n, duplicate: false }])
    const [sum] = await inTenant(db, scope, (tenant) => spend(tenant, { since }))
    expect(sum).toMatchObject({ costNanos: 8_000n, events: 3 })
  })

  test('a key is its first user’s, who alone is told what was recorded under it', async ({
    db,
  }) => {
    const owner = await makeSpender(db)
    const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
    const keyed = { ...call, idempotencyKey: 'k1' }
    const record = (scope: Scope) =>
      db.transaction((tx) => inTenant(tx, scope, (tenant) => recordUsage(tenant, keyed)))
    const first = await record(ann)

    expect(await record(ann)).toEqual({ ...first, duplicate: true })
    await expect(record(ben)).rejects.toMatchObject({ constraint: 'usage_keys_pkey' })
    const seen = await inTenant(db, ben, (tenant) =>
      rowsOf(tenant.db, sql`select * from costs.usage_keys`),
    )
    expect(seen).toEqual([])
  })

  test('is priced by a price of the same moment', async () => {
    for (const model of Array.from({ length: 20 }, () => uuidV7())) {
      // Another moment each time, so that some are rounded up.
      const priced = await rollback(root, async (tx) => {
        await createPrice(tx, { provider: 'p', model, unit: 'input', nanosPerMillion: 1_000_000n })
        const scope = await makeSpender(tx)
        return inTenant(tx, scope, (tenant) =>
          recordUsage(tenant, { ...call, provider: 'p', model }),
        )
      })
      expect(priced.status).toBe('priced')
    }
  })

  test('a key of another organization is another key', async ({ db }) => {
    const [one, other] = [await makeSpender(db), await makeScope(db)]
    const record = (scope: Scope) =>
      inTenant(db, scope, (tenant) => makeUsageEvent(tenant, { idempotencyKey: 'k' }))

    expect((await record(one)).duplicate).toBe(false)
    expect((await record(other)).duplicate).toBe(false)
  })

  test.skipIf(!url)('20 at once with one key record and bill one call', async () => {
    const scope = await makeScope(root)
    const keyed = { ...call, idempotencyKey: 'k', costNanos: 3n }

    const answers = await Promise.all(
      Array.from({ length: 20 }, () =>
        inTenant(root, scope, (tenant) => recordUsage(tenant, keyed)),
      ),
    )

    expect(answers.filter(({ duplicate }) => !duplicate)).toHaveLength(1)
    expect(new Set(answers.map(({ id }) => id)).size).toBe(1)
    const sums = await inTenant(root, scope, (tenant) => spend(tenant, { since }))
    expect(sums).toMatchObject([{ costNanos: 3n, events: 1 }])
  })

  test.skipIf(!url)('two batches with the same keys in other orders do not deadlock', async () => {
    const scope = await makeScope(root)
    const record = (keys: string[]) =>
      inTenant(root, scope, (tenant) =>
        recordUsages(
          tenant,
          keys.map((idempotencyKey) => ({ ...call, idempotencyKey })),
        ),
      )

    let batches: ReturnType<typeof record>[] = []
    await inTenant(root, scope, async (tenant) => {
      await recordUsage(tenant, { ...call, idempotencyKey: 'm' })
      // Each would hold its first key while it waits for m, and then want the other one's.
      batches = [record(['z', 'm', 'a']), record(['a', 'm', 'z'])]
      await setTimeout(300)
    })

    const ids = (await Promise.all(batches)).map((batch) => batch.map(({ id }) => id))
    expect(ids[0]).toEqual(ids[1]?.toReversed())
  })

  test('a member records in the own name or in nobody’s; a service in anybody’s', async ({
    db,
  }) => {
    const owner = await makeSpender(db)
    const member = await joinScope(db, owner, 'viewer')
    const as = (scope: Scope, userId?: string | null) =>
      db.transaction((tx) =>
        inTenant(tx, scope, (tenant) =>
          makeUsageEvent(tenant, { userId, idempotencyKey: uuidV7() }),
        ),
      )

    expect(await as(member)).toMatchObject({ duplicate: false })
    expect(await as(member, null)).toMatchObject({ duplicate: false })
    await expect(as(member, owner.userId)).rejects.toBeInstanceOf(ForbiddenError)
    await asService(db, owner.organizationId, (tenant) => makeUsageEvent(tenant))
    const lines = (scope: Scope) => inTenant(db, scope, (tenant) => listUsage(tenant))
    expect((await lines(owner)).map(({ userId }) => userId)).toEqual([null, null, member.userId])
    expect((await lines(member)).map(({ userId }) => userId)).toEqual([member.userId])
  })

  test('a month without a partition is named, and claims no key', async ({ db }) => {
    const scope = await makeSpender(db)
    const record = (occurredAt: Date) =>
      db.transaction((tx) =>
        inTenant(tx, scope, (tenant) =>
          makeUsageEvent(tenant, { idempotencyKey: 'k', occurredAt }),
        ),
      )

    await expect(record(new Date('1999-01-01'))).rejects.toBeInstanceOf(MissingPartitionError)
    expect(await record(since)).toMatchObject({ duplicate: false })
  })

  test('refuses before any SQL, so that the transaction stays usable', async ({ db }) => {
    const scope = await makeSpender(db)
    const bad: Partial<Record<keyof RecordUsageOptions, unknown>>[] = [
      ...[
        { provider: '' },
        { provider: 'a/b' },
        { model: 'a\0b' },
        { operation: '\ud800' },
        { endpoint: 'x'.repeat(501) },
      ],
      ...[
        { inputTokens: -1 },
        { outputTokens: Number.NaN },
        { images: 1.5 },
        { requests: 2 ** 60 },
      ],
      ...[{ costNanos: -1n }, { costNanos: 2n ** 63n }, { costNanos: 1 }, { latencyMs: 2 ** 31 }],
      ...[{ userId: 'me' }, { runId: '' }, { idempotencyKey: '' }, { metadata: { a: '\0' } }],
      ...[{ occurredAt: new Date(Number.NaN) }, { occurredAt: new Date(8.64e15) }],
      ...[{ status: 'unpriced' }, { cacheReadTokens: 1_001 }, { reasoningTokens: 1 }],
    ]

    await inTenant(db, scope, async (tenant) => {
      for (const fields of bad) {
        const [field] = Object.keys(fields)
        const usages = [call, { ...call, ...fields } as RecordUsageOptions]
        const error = await recordUsages(tenant, usages).catch((error) => error)
        expect(error, field).toBeInstanceOf(ValidationError)
        expect(error.argument).toMatch(/^usages\[1\]\./)
      }
      const tooMany = Array.from({ length: 1_001 }, () => call)
      await expect(recordUsages(tenant, tooMany)).rejects.toBeInstanceOf(ValidationError)
      expect(await recordUsages(tenant, [])).toEqual([])
      expect(await listUsage(tenant)).toEqual([])
      expect(await recordUsage(tenant, call)).toMatchObject({ status: 'unpriced' })
    })
  })

  test('a cost above what can be kept is refused', async ({ db }) => {
    const scope = await makeSpender(db)
    await makeModelPrice(db, { nanosPerMillion: 2n ** 63n - 1n })

    await inTenant(db, scope, async (tenant) => {
      const dear = recordUsage(tenant, { ...call, inputTokens: 2_000_000 })
      await expect(dear).rejects.toBeInstanceOf(ValidationError)
      expect(await listUsage(tenant)).toEqual([])
    })
  })
})

describe('spend and topCosts', () => {
  const project = uuidV7()
  const billed = (at: string, costNanos: bigint, more: Partial<RecordUsageOptions> = {}) => ({
    ...{ ...call, inputTokens: 10, outputTokens: 5, occurredAt: new Date(at), costNanos },
    ...more,
  })

  async function makeSpending(db: Database) {
    const scope = await makeSpender(db)
    await inTenant(db, scope, (tenant) =>
      recordUsages(tenant, [
        billed('2026-03-28T22:59:59.999Z', 1n, { model: 'x', endpoint: '/a' }),
        billed('2026-03-28T23:00:00Z', 2n, { model: 'x', projectId: project }),
        billed('2026-03-29T21:59:59.999Z', 4n, { model: 'y', endpoint: '/a' }),
        // An hour earlier than the day before: the night of the 29th has no hour from 2 to 3.
        billed('2026-03-29T22:00:00Z', 2n ** 63n - 1n, { model: 'x' }),
        { ...call, model: 'z', occurredAt: new Date('2026-04-30T23:59:59.999Z') },
      ]),
    )
    return scope
  }

  test('is exact, and says how much is unpriced', async ({ db }) => {
    const scope = await makeSpending(db)
    const sum = (tenant: Tenant) => spend(tenant, { since })

    expect(await inTenant(db, scope, sum)).toEqual([
      { costNanos: 2n ** 63n + 6n, events: 5, unpriced: 1, tokens: 1_060 },
    ])
    expect(await inTenant(db, await makeScope(db), sum)).toEqual([])
  })

  // On the server the login has no right to the ledger out of its role.
  test.skipIf(url)('names the organization itself, where no policy binds', async ({ db }) => {
    const [mine, theirs] = [await makeSpender(db), await makeSpender(db)]
    const given = { ...call, costNanos: 5n, status: 'priced' as const }
    for (const scope of [mine, theirs]) {
      await inTenant(db, scope, (tenant) => recordUsage(tenant, given))
    }

    await inTenant(db, mine, async (tenant) => {
      await rowsOf(tenant.db, sql`set local role none`)
      expect(await rowsOf(tenant.db, sql`select 1 from costs.usage_events`)).toHaveLength(2)
      expect(await spend(tenant, { since })).toMatchObject([{ costNanos: 5n, events: 1 }])
      expect(await topCosts(tenant, { since, by: 'model' })).toMatchObject([{ events: 1 }])
      expect(await listUsage(tenant)).toHaveLength(1)
    })
  })

  test('is refused rather than cut', async ({ db }) => {
    const scope = await makeSpender(db)
    await inTenant(db, scope, async (tenant) => {
      for (const hour of [1, 2, 3]) {
        await recordUsage(tenant, {
          ...call,
          occurredAt: new Date(since.getTime() + hour * 3_600_000),
        })
      }
      const hourly = { since, period: 'hour' as const }

      expect(await spend(tenant, { ...hourly, limit: 3 })).toHaveLength(3)
      await expect(spend(tenant, { ...hourly, limit: 2 })).rejects.toMatchObject({
        argument: 'limit',
      })
    })
  })

  test('begins days and months where the time zone does, over a change of clocks', async ({
    db,
  }) => {
    const scope = await makeSpending(db)
    const until = new Date('2026-04-30T00:00:00Z')
    const starts = (period: 'hour' | 'day' | 'month', timeZone?: string) =>
      inTenant(db, scope, async (tenant) =>
        (await spend(tenant, { since, until, period, timeZone })).map(({ period, costNanos }) => [
          ...[period.toISOString(), costNanos],
        ]),
      )
    const huge = 2n ** 63n - 1n

    expect(await starts('day', 'Europe/Berlin')).toEqual([
      ['2026-03-27T23:00:00.000Z', 1n],
      ['2026-03-28T23:00:00.000Z', 6n],
      ['2026-03-29T22:00:00.000Z', huge],
    ])
    expect(await starts('day')).toEqual([
      ['2026-03-28T00:00:00.000Z', 3n],
      ['2026-03-29T00:00:00.000Z', huge + 4n],
    ])
    expect(await starts('month', 'Asia/Kolkata')).toEqual([['2026-02-28T18:30:00.000Z', huge + 7n]])
    expect(await starts('hour', 'Asia/Kolkata')).toMatchObject([
      ['2026-03-28T22:30:00.000Z', 3n],
      ['2026-03-29T21:30:00.000Z', huge + 4n],
    ])
  })

  test('sums up by user, model, endpoint and project, the dearest first', async ({ db }) => {
    const scope = await makeSpending(db)
    const until = new Date('2026-03-29T22:00:00Z')
    const top = <By extends 'user' | 'model' | 'endpoint' | 'project'>(by: By) =>
      inTenant(db, scope, (tenant) => topCosts(tenant, { since, until, by }))

    expect(await top('model')).toEqual([
      { provider: 'test', model: 'y', costNanos: 4n, events: 1, unpriced: 0, tokens: 15 },
      { provider: 'test', model: 'x', costNanos: 3n, events: 2, unpriced: 0, tokens: 30 },
    ])
    expect(await top('endpoint')).toMatchObject([
      { endpoint: '/a', costNanos: 5n },
      { endpoint: null, costNanos: 2n },
    ])
    expect(await top('project')).toMatchObject([
      { projectId: null, costNanos: 5n },
      { projectId: project, costNanos: 2n },
    ])
    expect(await top('user')).toMatchObject([{ userId: scope.userId, costNanos: 7n }])
    const daily = await inTenant(db, scope, (tenant) =>
      spend(tenant, { since, until, period: 'day', by: 'model', limit: 2 }),
    )
    expect(daily.map(({ model, costNanos }) => [model, costNanos])).toEqual([
      ['x', 3n],
      ['y', 4n],
    ])
  })

  test('a member sums up the own lines, an admin those of all', async ({ db }) => {
    const owner = await makeSpender(db)
    const [member, admin] = [
      await joinScope(db, owner, 'editor'),
      await joinScope(db, owner, 'admin'),
    ]
    for (const scope of [owner, member]) {
      await inTenant(db, scope, (tenant) => makeUsageEvent(tenant, { costNanos: 1n }))
    }
    const events = async (scope: Scope, userId?: string) =>
      (await inTenant(db, scope, (tenant) => spend(tenant, { since, userId })))[0]?.events

    expect([await events(member), await events(admin), await events(owner)]).toEqual([1, 2, 2])
    expect(await events(admin, member.userId)).toBe(1)
    expect(await events(member, owner.userId)).toBeUndefined()
  })

  test('another organization sees nothing of it', async ({ db }) => {
    const [one, other] = [await makeSpending(db), await makeScope(db)]

    expect(await inTenant(db, one, (tenant) => listUsage(tenant))).toHaveLength(5)
    expect(await inTenant(db, other, (tenant) => listUsage(tenant))).toEqual([])
    expect(await inTenant(db, other, (tenant) => topCosts(tenant, { since, by: 'user' }))).toEqual(
      [],
    )
  })

  test('refuses before any SQL, so that the transaction stays usable', async ({ db }) => {
    const scope = await makeSpender(db)
    await inTenant(db, scope, async (tenant) => {
      // Postgres reads an offset with its sign turned round, and short names without summer time.
      for (const timeZone of ['+01:00', 'CET', 'Nowhere/City', "UTC'; select 1", '']) {
        await expect(spend(tenant, { since, timeZone }), timeZone).rejects.toBeInstanceOf(
          ValidationError,
        )
      }
      for (const limit of [0, -1, Number.NaN, 1e18]) {
        await expect(spend(tenant, { since, limit })).rejects.toBeInstanceOf(ValidationError)
        await expect(topCosts(tenant, { since, by: 'user', limit })).rejects.toBeInstanceOf(
          ValidationError,
        )
        await expect(listUsage(tenant, { limit })).rejects.toBeInstanceOf(ValidationError)
      }
      const never = new Date(Number.NaN)
      await expect(spend(tenant, { since: never })).rejects.toBeInstanceOf(ValidationError)
      await expect(listUsage(tenant, { until: never })).rejects.toBeInstanceOf(ValidationError)
      const garbage = 'user_id' as 'user'
      await expect(spend(tenant, { since, by: garbage })).rejects.toBeInstanceOf(ValidationError)
      expect(await spend(tenant, { since })).toEqual([])
    })
  })
})

describe('listUsage', () => {
  test('pages over calls of one millisecond without loss or repetition', async ({ db }) => {
    const scope = await makeSpender(db)
    const at = (index: number) => new Date(since.getTime() + Math.floor(index / 3))
    const usages = Array.from({ length: 10 }, (_, index) => ({ ...call, occurredAt: at(index) }))

    await inTenant(db, scope, async (tenant) => {
      const recorded = await recordUsages(tenant, usages)
      const seen: string[] = []
      let after: { occurredAt: Date; id: string } | undefined
      do {
        const page = await listUsage(tenant, { after, limit: 4 })
        seen.push(...page.map(({ id }) => id))
        after = page.at(-1)
      } while (after)

      expect(seen).toEqual(recorded.map(({ id }) => id).toReversed())
    })
  })

  test('filters by time, user and model', async ({ db }) => {
    const scope = await makeSpender(db)
    const later = new Date('2026-02-01T00:00:00Z')
    await inTenant(db, scope, async (tenant) => {
      const [first, second] = await recordUsages(tenant, [
        { ...call, occurredAt: since, userId: null },
        { ...call, occurredAt: later, model: 'other', provider: 'elsewhere' },
      ])
      const list = async (options: Parameters<typeof listUsage>[1]) =>
        (await listUsage(tenant, options)).map(({ id }) => id)

      expect(await list({ until: later })).toEqual([first?.id])
      expect(await list({ since: later })).toEqual([second?.id])
      expect(await list({ userId: scope.userId })).toEqual([second?.id])
      expect(await list({ provider: 'test', model: 'test-model' })).toEqual([first?.id])
      expect(await list({ model: 'other' })).toEqual([second?.id])
    })
  })
})
