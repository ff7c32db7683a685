import fc from 'fast-check'
import { describe, expect } from 'vitest'
import type { Database } from '../../src/database.ts'
import { ConstraintError, NotFoundError, ValidationError } from '../../src/errors.ts'
import {
  type ApplicablePrice,
  CATALOGUE_START,
  type CatalogueProvider,
  closePrice,
  createPrice,
  estimateCost,
  importPrices,
  listPrices,
  priceUsage,
} from '../../src/queries/prices.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { type PriceUnit, priceUnit } from '../../src/schema/costs.ts'
import { makeModelPrice } from '../../src/testing/costs.ts'
import { test } from '../support/database.ts'

const at = new Date('2026-06-01T00:00:00Z')

const price = (
  unit: PriceUnit,
  nanosPerMillion: bigint,
  more: Partial<ApplicablePrice> = {},
): ApplicablePrice => ({
  ...{ id: uuidV7(), unit, nanosPerMillion, tierFrom: 0, validFrom: CATALOGUE_START },
  validTo: null,
  ...more,
})

describe('priceUsage', () => {
  const prices = [
    price('input', 3_000_000_000n),
    price('output', 15_000_000_000n),
    price('cache_read', 300_000_000n),
    price('input', 6_000_000_000n, { tierFrom: 200_000 }),
  ]
  const costOf = (usage: Parameters<typeof priceUsage>[1]) =>
    priceUsage(prices, { at, ...usage }).costNanos

  test('prices the cached tokens apart, and those without a price as input', () => {
    expect(costOf({ inputTokens: 1_000, cacheReadTokens: 400 })).toBe(600n * 3_000n + 400n * 300n)
    expect(costOf({ inputTokens: 1_000, cacheWriteTokens: 400 })).toBe(1_000n * 3_000n)
  })

  test('prices reasoning as output, unless it has a price', () => {
    const usage = { at, outputTokens: 100, reasoningTokens: 60 }
    const own = [...prices, price('reasoning', 1_000_000_000n)]

    expect(priceUsage(prices, usage).costNanos).toBe(100n * 15_000n)
    expect(priceUsage(own, usage).costNanos).toBe(40n * 15_000n + 60n * 1_000n)
  })

  test('takes the highest tier that begins below the input, and the base of a unit without', () => {
    expect(costOf({ inputTokens: 200_000 })).toBe(200_000n * 3_000n)
    expect(costOf({ inputTokens: 200_001, outputTokens: 1 })).toBe(200_001n * 6_000n + 15_000n)
  })

  test('takes the price of the time: from included, to excluded', () => {
    const changing = [
      price('input', 1_000_000n, { validTo: at }),
      price('input', 2_000_000n, { validFrom: at }),
    ]
    const before = new Date(at.getTime() - 1)

    expect(priceUsage(changing, { at: before, inputTokens: 1 }).costNanos).toBe(1n)
    expect(priceUsage(changing, { at, inputTokens: 1 }).costNanos).toBe(2n)
  })

  test('is unpriced, and not free, as soon as one unit has no price', () => {
    const unpriced = { status: 'unpriced', costNanos: null, priceIds: [], lines: [] }

    expect(priceUsage(prices, { at, inputTokens: 1, images: 1 })).toEqual(unpriced)
    expect(priceUsage([], { at })).toEqual(unpriced)
    expect(priceUsage([price('input', 0n)], { at, inputTokens: 5 })).toMatchObject({
      status: 'priced',
      costNanos: 0n,
    })
  })

  test('charges for requests only if they have a price', () => {
    const perRequest = [...prices, price('request', 5_000_000n * 1_000_000n)]

    expect(costOf({ requests: 3 })).toBe(0n)
    expect(priceUsage(perRequest, { at, requests: 3 }).costNanos).toBe(15_000_000n)
    expect(priceUsage(perRequest, { at }).costNanos).toBe(5_000_000n)
  })

  test('rounds once, half up', () => {
    const half = [price('input', 500_000n), price('output', 499_999n)]

    expect(priceUsage(half, { at, inputTokens: 1 }).costNanos).toBe(1n)
    expect(priceUsage(half, { at, outputTokens: 1 }).costNanos).toBe(0n)
    // 0.5 + 0.499999, and not 1 + 0.
    expect(priceUsage(half, { at, inputTokens: 2, outputTokens: 1 }).costNanos).toBe(1n)
  })

  test('refuses what cannot have been used, and a cost too large to keep', () => {
    const dear = [price('input', 2n ** 63n - 1n)]

    for (const usage of [
      { inputTokens: 9, cacheReadTokens: 5, cacheWriteTokens: 5 },
      { outputTokens: 9, reasoningTokens: 10 },
      { inputTokens: -1 },
      { inputTokens: Number.NaN },
      { images: 0.5 },
      { at: new Date(Number.NaN) },
    ]) {
      expect(() => priceUsage(prices, usage)).toThrow(ValidationError)
    }
    expect(() => priceUsage(dear, { at, inputTokens: 2_000_000 })).toThrow(ValidationError)
  })

  test('is exact: never more than half a nano-dollar from the rational sum', () => {
    const count = fc.nat({ max: 2 ** 31 - 1 })
    const rate = fc.bigInt({ min: 0n, max: 10n ** 12n })
    const units = priceUnit.enumValues
    fc.assert(
      fc.property(
        fc.array(count, { minLength: 8, maxLength: 8 }),
        fc.array(rate, { minLength: units.length, maxLength: units.length }),
        ([fresh = 0, read = 0, write = 0, plain = 0, reasoning = 0, ...others], rates) => {
          const [embeddingTokens = 0, images = 0, audioSeconds = 0] = others
          const all = units.map((unit, index) => price(unit, rates[index] as bigint))
          const { costNanos } = priceUsage(all, {
            at,
            inputTokens: fresh + read + write,
            outputTokens: plain + reasoning,
            cacheReadTokens: read,
            cacheWriteTokens: write,
            reasoningTokens: reasoning,
            ...{ embeddingTokens, images, audioSeconds },
          })
          // In the order of the enum; the last is one request.
          const counts = [fresh, plain, read, write, reasoning, ...others, 1]
          const millionths = counts.reduce(
            (sum, n, index) => sum + BigInt(n) * (rates[index] as bigint),
            0n,
          )
          // -1/2 < cost - sum <= 1/2, in millionths, doubled.
          const error = 2n * ((costNanos as bigint) * 1_000_000n - millionths)
          return error > -1_000_000n && error <= 1_000_000n
        },
      ),
    )
  })
})

describe('createPrice, closePrice, listPrices', () => {
  test('one price follows another; two at once are refused', async ({ db }) => {
    const first = await makeModelPrice(db)
    const again = db.transaction((tx) => makeModelPrice(tx, { validFrom: at }))
    await expect(again).rejects.toBeInstanceOf(ConstraintError)
    await expect(again).rejects.toMatchObject({ constraint: 'model_prices_validity_excl' })

    await closePrice(db, { id: first.id, validTo: at })
    const second = await makeModelPrice(db, { validFrom: at, nanosPerMillion: 7n })

    const list = (options = {}) =>
      listPrices(db, { provider: 'test', model: 'test-model', ...options })
    expect((await list()).map(({ id }) => id)).toEqual([first.id, second.id])
    expect(await list({ at })).toEqual([second])
    expect(await list({ after: first.id })).toEqual([second])
    expect(await list({ model: 'other' })).toEqual([])
  })

  test('an end is only ever brought forward', async ({ db }) => {
    const { id } = await makeModelPrice(db, { validTo: at })
    const later = new Date('2027-01-01T00:00:00Z')

    expect(await closePrice(db, { id, validTo: later })).toMatchObject({ validTo: at })
    await expect(closePrice(db, { id: uuidV7() })).rejects.toBeInstanceOf(NotFoundError)
  })

  test('refuses before any SQL, so that the transaction stays usable', async ({ db }) => {
    const good = { provider: 'test', model: 'm', unit: 'input', nanosPerMillion: 1n } as const
    for (const bad of [
      { provider: '\0' },
      { provider: 'a/b' },
      { model: '\ud800' },
      { nanosPerMillion: -1n },
      { nanosPerMillion: 2n ** 63n },
      { tierFrom: -1 },
      { source: 'genai-prices' },
      { validFrom: new Date(8.64e15) },
      { validFrom: at, validTo: at },
    ]) {
      await expect(createPrice(db, { ...good, ...bad })).rejects.toBeInstanceOf(ValidationError)
    }
    await expect(listPrices(db, { limit: 0 })).rejects.toBeInstanceOf(ValidationError)
    expect(await createPrice(db, good)).toMatchObject({ source: 'manual', tierFrom: 0 })
  })
})

const of = (
  prices: CatalogueProvider['models'][number]['prices'],
  id = 'model',
): CatalogueProvider[] => [{ id: 'acme', models: [{ id, prices }] }]

async function timeline(db: Database, model = 'model') {
  const rows = await listPrices(db, { provider: 'acme', model })
  return rows
    .map(({ unit, tierFrom, nanosPerMillion, validFrom, validTo }) => {
      const day = (time: Date | null) => time?.toISOString().slice(0, 10) ?? '…'
      return `${unit} ${tierFrom} ${nanosPerMillion} ${day(validFrom)} ${day(validTo)}`
    })
    .toSorted()
}

describe('importPrices', () => {
  test('imports the real catalogue once, and again without a change', async ({ db }) => {
    const first = await importPrices(db)
    expect(first.inserted).toBeGreaterThan(3_000)
    expect(first).toMatchObject({ closed: 0, unchanged: 0 })

    expect(await importPrices(db)).toEqual({
      ...{ inserted: 0, closed: 0, unchanged: first.inserted, skipped: first.skipped },
    })

    const costOf = async (
      provider: string,
      model: string,
      usage: Parameters<typeof priceUsage>[1],
    ) => priceUsage(await listPrices(db, { provider, model }), { at, ...usage }).costNanos
    const o3 = { inputTokens: 1_000_000 }
    const early = new Date('2025-06-09T23:59:59.999Z')
    expect(await costOf('openai', 'text-embedding-3-small', { embeddingTokens: 7 })).toBe(140n)
    expect(await costOf('openai', 'o3', { ...o3, at: early })).toBe(10_000_000_000n)
    expect(await costOf('openai', 'o3', { ...o3, at: new Date('2025-06-10') })).toBe(2_000_000_000n)
    const sonnet = 'claude-sonnet-4-5'
    expect(await costOf('anthropic', sonnet, { inputTokens: 200_000 })).toBe(600_000_000n)
    expect(await costOf('anthropic', sonnet, { inputTokens: 200_001 })).toBe(1_200_006_000n)
    expect(await costOf('anthropic', sonnet, { inputTokens: 10, cacheReadTokens: 10 })).toBe(3_000n)
    // Dearer in the daytime, which a price cannot say.
    expect(await costOf('deepseek', 'deepseek-chat', { inputTokens: 1 })).toBeNull()
  })

  test('imports no more providers than it is asked for', async ({ db }) => {
    await importPrices(db, { providers: ['anthropic'] })

    expect(await listPrices(db, { provider: 'openai' })).toEqual([])
    expect(await listPrices(db, { provider: 'anthropic', limit: 1 })).toHaveLength(1)
    await expect(importPrices(db, { providers: ['nobody'] })).rejects.toMatchObject({
      argument: 'providers[0]',
    })
    await expect(
      importPrices(db, { catalogue: [{ id: 'a/b', models: [] }] }),
    ).rejects.toMatchObject({ argument: 'catalogue[0].id' })
    await expect(
      importPrices(db, { catalogue: of({ input_mtok: Number.NaN }) }),
    ).rejects.toMatchObject({ argument: 'catalogue of acme: models[0].prices' })
  })

  test('keeps past prices, tiers and other units as what they are', async ({ db }) => {
    const catalogue = of([
      { prices: { input_mtok: { base: 1, tiers: [{ start: 100, price: 2 }] }, output_mtok: 4 } },
      {
        constraint: { type: 'start_date', start_date: '2026-02-01' },
        prices: { input_mtok: 0.0028, output_mtok: 4, requests_kcount: 5, audio_hours: 0.36 },
      },
    ])

    expect(await importPrices(db, { catalogue })).toMatchObject({ inserted: 6, skipped: 0 })
    expect(await timeline(db)).toEqual([
      'audio_second 0 100000000000 2026-02-01 …',
      'input 0 1000000000 2020-01-01 2026-02-01',
      'input 0 2800000 2026-02-01 …',
      'input 100 2000000000 2020-01-01 2026-02-01',
      'output 0 4000000000 2020-01-01 …',
      'request 0 5000000000000 2026-02-01 …',
    ])
  })

  test('ends a price that has changed, and a tier that has gone', async ({ db }) => {
    const tiered = { base: 1, tiers: [{ start: 100, price: 2 }] }
    await importPrices(db, { catalogue: of({ input_mtok: tiered, output_mtok: 4 }) })
    const change = { catalogue: of({ input_mtok: 3, output_mtok: 4 }), validFrom: at }

    const counts = { inserted: 1, closed: 2, unchanged: 1, skipped: 0 }
    const before = await timeline(db)
    expect(await importPrices(db, { ...change, dryRun: true })).toEqual(counts)
    expect(await timeline(db)).toEqual(before)
    expect(await importPrices(db, change)).toEqual(counts)
    expect(await timeline(db)).toEqual([
      'input 0 1000000000 2020-01-01 2026-06-01',
      'input 0 3000000000 2026-06-01 …',
      'input 100 2000000000 2020-01-01 2026-06-01',
      'output 0 4000000000 2020-01-01 …',
    ])
    expect(await importPrices(db, change)).toMatchObject({ inserted: 0, closed: 0, unchanged: 4 })
  })

  test('takes up a change that is announced, and takes it back', async ({ db }) => {
    const later = (price: number) =>
      of([
        { prices: { output_mtok: 1 } },
        {
          constraint: { type: 'start_date', start_date: '2999-01-01' },
          prices: { output_mtok: price },
        },
      ])
    await importPrices(db, { catalogue: of({ output_mtok: 1 }) })

    await importPrices(db, { catalogue: later(2) })
    expect(await timeline(db)).toEqual([
      'output 0 1000000000 2020-01-01 2999-01-01',
      'output 0 2000000000 2999-01-01 …',
    ])
    expect(await importPrices(db, { catalogue: later(3) })).toMatchObject({
      inserted: 1,
      closed: 1,
    })
    await importPrices(db, { catalogue: of({ output_mtok: 1 }) })
    expect(await timeline(db)).toEqual([
      'output 0 1000000000 2020-01-01 2999-01-01',
      'output 0 1000000000 2999-01-01 …',
    ])
  })

  test('leaves the prices of others alone, and does not overlap them', async ({ db }) => {
    const validTo = new Date(at.getTime() + 86_400_000)
    const price = { provider: 'acme', model: 'model', validFrom: at, validTo }
    const manual = await makeModelPrice(db, price)
    const catalogue = of({ input_mtok: 9, output_mtok: 4 })

    const counts = await importPrices(db, { catalogue })

    // The catalogue's holds before and after, and not for ever because of a day.
    expect(counts).toEqual({ inserted: 3, closed: 0, unchanged: 0, skipped: 1 })
    expect(await listPrices(db, { provider: 'acme', at })).toContainEqual(manual)
    expect((await timeline(db)).filter((line) => line.startsWith('input'))).toHaveLength(3)
    expect(await importPrices(db, { catalogue })).toMatchObject({ inserted: 0, closed: 0 })
  })

  test('skips and counts what a price cannot say', async ({ db }) => {
    const daily = of([
      { prices: { output_mtok: 1 } },
      {
        constraint: { type: 'time_of_date', start_time: '00:30:00Z', end_time: '16:30:00Z' },
        prices: { output_mtok: 2 },
      },
    ])

    expect(await importPrices(db, { catalogue: daily })).toMatchObject({ inserted: 0, skipped: 2 })
    const searches = of({ output_mtok: 1, web_searches_kcount: 10 })
    expect(await importPrices(db, { catalogue: searches })).toMatchObject({
      ...{ inserted: 1, skipped: 1 },
    })
  })

  test('prices the tokens of a model that only reads as input and as embedding', async ({ db }) => {
    await importPrices(db, { catalogue: of({ input_mtok: 1 }) })
    expect((await timeline(db)).map((line) => line.split(' ')[0])).toEqual(['embedding', 'input'])

    await importPrices(db, { catalogue: of({ input_mtok: 1, output_mtok: 1 }, 'acme-embed') })
    expect(await timeline(db, 'acme-embed')).toHaveLength(3)
  })
})

describe('estimateCost', () => {
  const price = (unit: 'input' | 'output' | 'cache_read' | 'reasoning', nanos: bigint) => ({
    ...{ id: unit, unit, tierFrom: 0, nanosPerMillion: nanos * 1_000_000n },
    ...{ validFrom: new Date(0), validTo: null },
  })

  test('is the dearest way in which the tokens can be counted', () => {
    const prices = [price('input', 2n), price('output', 3n), price('cache_read', 1n)]
    expect(estimateCost(prices, { inputTokens: 10, maxOutputTokens: 10 })).toBe(50n)
    expect(
      estimateCost([...prices, price('reasoning', 9n)], { inputTokens: 10, maxOutputTokens: 10 }),
    ).toBe(110n)
  })

  test('is not known without a price for all of it', () => {
    expect(
      estimateCost([price('input', 1n)], { inputTokens: 1, maxOutputTokens: 1 }),
    ).toBeUndefined()
    expect(estimateCost([], { inputTokens: 1 })).toBeUndefined()
  })
})
