import { and, asc, eq, gt, isNull, lte, or, sql } from 'drizzle-orm'
import { type Database, only, run } from '../database.ts'
import { NotFoundError, ValidationError } from '../errors.ts'
import { type ModelPrice, modelPrices, type PriceUnit, priceUnit } from '../schema/costs.ts'
import {
  checkBigint,
  checkInstant,
  checkInteger,
  checkItem,
  checkLimit,
  checkList,
  checkOneOf,
  checkProvider,
  checkText,
  checkUuid,
  MAX_MODEL,
  MAX_PROVIDER,
} from '../validation.ts'
import { CATALOGUE_SOURCE } from './catalogue.ts'

export {
  CATALOGUE_START,
  type CatalogueProvider,
  type ImportedPrices,
  type ImportPricesOptions,
  importPrices,
} from './catalogue.ts'

const MAX_PAGE = 500

/** What a call used. What is absent was not used. */
export interface UsageCounts {
  /** All tokens of the input, the cached ones among them. */
  inputTokens?: number
  /** All tokens of the output, those of reasoning among them. */
  outputTokens?: number
  cacheReadTokens?: number
  cacheWriteTokens?: number
  reasoningTokens?: number
  /** Apart from `inputTokens`. */
  embeddingTokens?: number
  images?: number
  /** Whole ones. */
  audioSeconds?: number
  /** 1 unless said. A tier is one request's: several of a tiered model, added up, would be mispriced. */
  requests?: number
}

const COUNTS = [
  'inputTokens',
  'outputTokens',
  'cacheReadTokens',
  'cacheWriteTokens',
  'reasoningTokens',
  'embeddingTokens',
  'images',
  'audioSeconds',
  'requests',
] as const satisfies readonly (keyof UsageCounts)[]

/** Whether anything is said of what a call used. */
export const isCounted = (usage: UsageCounts): boolean => COUNTS.some((name) => usage[name] != null)

/** Checks counts, and returns all of them. @throws {ValidationError} as `priceUsage`. */
export function checkCounts(usage: UsageCounts, path = ''): Required<UsageCounts> {
  const counts = Object.fromEntries(
    COUNTS.map((name) => {
      const count = usage[name] ?? (name === 'requests' ? 1 : 0)
      checkInteger(`${path}${name}`, count)
      return [name, count]
    }),
  ) as Required<UsageCounts>
  const { inputTokens, outputTokens, cacheReadTokens, cacheWriteTokens, reasoningTokens } = counts
  if (cacheReadTokens + cacheWriteTokens > inputTokens) {
    throw new ValidationError(
      `${path}inputTokens`,
      `is ${inputTokens}, less than the cached tokens (${cacheReadTokens} read, ${cacheWriteTokens} written), which it includes`,
    )
  }
  if (reasoningTokens > outputTokens) {
    throw new ValidationError(
      `${path}outputTokens`,
      `is ${outputTokens}, less than the ${reasoningTokens} of reasoning, which it includes`,
    )
  }
  return counts
}

/** What `priceUsage` looks at in a price. */
export type ApplicablePrice = Pick<
  ModelPrice,
  'id' | 'unit' | 'tierFrom' | 'nanosPerMillion' | 'validFrom' | 'validTo'
>

export interface CostLine {
  /** The price's: cached tokens without a price of their own are `input`. */
  unit: PriceUnit
  count: number
  nanosPerMillion: bigint
  priceId: string
}

export interface PricedUsage {
  status: 'priced' | 'unpriced'
  /** Null, and never 0, if something that was used has no price. */
  costNanos: bigint | null
  priceIds: string[]
  /** Empty where unpriced. */
  lines: CostLine[]
}

const MILLION = 1_000_000n

/**
 * Computes what a call cost from the prices of its model. Pure: it asks no database.
 *
 * Of each unit it takes the price that applies at `at` (now unless said), in the highest tier that begins
 * below the input tokens. Cached tokens without a price cost what input does, reasoning what output does,
 * and requests nothing. Exact: rounded once, half up, to a nano-dollar.
 *
 * @throws {ValidationError} for a count that is negative or no whole number, more cached tokens than
 * input, more reasoning than output, and a cost above 2^63-1.
 */
export function priceUsage(
  prices: readonly ApplicablePrice[],
  { at = new Date(), ...usage }: UsageCounts & { at?: Date },
): PricedUsage {
  checkList('prices', prices, { max: 100_000 })
  for (const price of prices) checkItem('prices', price, () => checkPrice(price))
  checkInstant('at', at)
  const counts = checkCounts(usage)
  const { inputTokens, outputTokens, cacheReadTokens, cacheWriteTokens, reasoningTokens } = counts
  // Highest tier first.
  const valid = prices
    .filter(({ validFrom, validTo }) => validFrom <= at && (validTo === null || at < validTo))
    .filter(({ tierFrom }) => tierFrom === 0 || tierFrom < inputTokens)
    .toSorted((one, other) => other.tierFrom - one.tierFrom)
  const priceOf = (unit: PriceUnit) => valid.find((price) => price.unit === unit)
  const [input, output, request] = [priceOf('input'), priceOf('output'), priceOf('request')]
  const used = [
    { count: inputTokens - cacheReadTokens - cacheWriteTokens, price: input },
    { count: cacheReadTokens, price: priceOf('cache_read') ?? input },
    { count: cacheWriteTokens, price: priceOf('cache_write') ?? input },
    { count: outputTokens - reasoningTokens, price: output },
    { count: reasoningTokens, price: priceOf('reasoning') ?? output },
    { count: counts.embeddingTokens, price: priceOf('embedding') },
    { count: counts.images, price: priceOf('image') },
    { count: counts.audioSeconds, price: priceOf('audio_second') },
    { count: request ? counts.requests : 0, price: request },
  ].filter(({ count }) => count > 0)

  const lines = used.flatMap(({ count, price }) =>
    price
      ? [{ unit: price.unit, count, nanosPerMillion: price.nanosPerMillion, priceId: price.id }]
      : [],
  )
  // A model without any price is unknown, and not one that costs nothing.
  if (lines.length < used.length || valid.length === 0) {
    return { status: 'unpriced', costNanos: null, priceIds: [], lines: [] }
  }
  const sum = lines.reduce(
    (total, { count, nanosPerMillion }) => total + BigInt(count) * nanosPerMillion,
    0n,
  )
  const costNanos = (sum + MILLION / 2n) / MILLION
  checkBigint('cost', costNanos)
  const priceIds = [...new Set(lines.map(({ priceId }) => priceId))]
  return { status: 'priced', costNanos, priceIds, lines }
}

function checkPrice({ validFrom, validTo, tierFrom, nanosPerMillion }: ApplicablePrice) {
  checkInstant('validFrom', validFrom)
  if (validTo !== null) checkInstant('validTo', validTo)
  checkInteger('tierFrom', tierFrom)
  checkBigint('nanosPerMillion', nanosPerMillion)
}

/** What a call will use at most. */
export interface CallEstimate
  extends Pick<
    UsageCounts,
    'inputTokens' | 'embeddingTokens' | 'images' | 'audioSeconds' | 'requests'
  > {
  /** As the call limits them: what is not limited cannot be reserved for. */
  maxOutputTokens?: number
}

/**
 * Computes what a call can cost at most: whatever part of its input is read from a cache or written to one,
 * and of its output is reasoning. Undefined for what has no price. Pure.
 *
 * @throws {ValidationError} as `priceUsage`.
 */
export function estimateCost(
  prices: readonly ApplicablePrice[],
  { maxOutputTokens = 0, inputTokens = 0, ...rest }: CallEstimate,
): bigint | undefined {
  checkInteger('maxOutputTokens', maxOutputTokens)
  const inputs = [{}, { cacheReadTokens: inputTokens }, { cacheWriteTokens: inputTokens }]
  const outputs = [{}, { reasoningTokens: maxOutputTokens }]
  const costs = inputs.flatMap((input) =>
    outputs.map((output) => {
      const usage = { ...rest, inputTokens, outputTokens: maxOutputTokens, ...input, ...output }
      return priceUsage(prices, usage).costNanos
    }),
  )
  return costs.reduce<bigint | undefined>((most, cost) => {
    if (cost === null) return most
    return most === undefined || cost > most ? cost : most
  }, undefined)
}

export interface CreatePriceOptions {
  provider: string
  model: string
  unit: PriceUnit
  /** Input tokens of a request, above which it applies; 0 is the base. */
  tierFrom?: number
  /** Nano-dollars per million units: $0.15 per million tokens is 150_000_000n. */
  nanosPerMillion: bigint
  /** Now by the database's clock, unless said. */
  validFrom?: Date
  /** Exclusive. Until further notice, unless said. */
  validTo?: Date
  /** Where it is from; anything but `genai-prices`. */
  source?: string
}

/**
 * Creates a price. One that replaces another goes into one transaction with `closePrice`, for the same
 * instant. What was recorded before keeps its cost.
 *
 * @throws {ConstraintError} `model_prices_validity_excl` if there is a price at some time of it already.
 * @throws {ValidationError} also for a provider with a slash.
 */
export async function createPrice(
  db: Database,
  {
    provider,
    model,
    unit,
    tierFrom = 0,
    nanosPerMillion,
    validFrom,
    validTo,
    source = 'manual',
  }: CreatePriceOptions,
): Promise<ModelPrice> {
  checkProvider('provider', provider)
  checkText('model', model, { max: MAX_MODEL })
  checkOneOf('unit', unit, priceUnit.enumValues)
  checkInteger('tierFrom', tierFrom)
  checkBigint('nanosPerMillion', nanosPerMillion)
  if (validFrom !== undefined) checkInstant('validFrom', validFrom)
  if (validTo !== undefined) checkInstant('validTo', validTo)
  if (validFrom && validTo && validTo <= validFrom) {
    throw new ValidationError('validTo', 'must be after validFrom')
  }
  checkText('source', source, { max: 100 })
  if (source === CATALOGUE_SOURCE) {
    throw new ValidationError('source', `must not be ${CATALOGUE_SOURCE}: those are importPrices's`)
  }
  return only(
    await run(
      db
        .insert(modelPrices)
        .values({
          ...{ provider, model, unit, tierFrom, nanosPerMillion, validTo, source },
          validFrom: validFrom ?? sql`now()`,
        })
        .returning(),
    ),
  )
}

export interface ClosePriceOptions {
  id: string
  /** The first instant at which it does not apply any more: now by the database's clock, unless said. */
  validTo?: Date
}

/**
 * Ends a price, before its end if it has one. One that has ended by then stays as it is.
 *
 * @throws {NotFoundError} for an unknown id.
 * @throws {ConstraintError} `model_prices_valid_to_check` for one that begins only then, or later.
 * @throws {ValidationError}
 */
export async function closePrice(
  db: Database,
  { id, validTo }: ClosePriceOptions,
): Promise<ModelPrice> {
  checkUuid('id', id)
  if (validTo !== undefined) checkInstant('validTo', validTo)
  const end = validTo ? sql`${validTo.toISOString()}::timestamptz` : sql`now()`
  const [price] = await run(
    db
      .update(modelPrices)
      // least() passes over null.
      .set({ validTo: sql`least(${modelPrices.validTo}, ${end})` })
      .where(eq(modelPrices.id, id))
      .returning(),
  )
  if (!price) throw new NotFoundError('price', id)
  return price
}

export interface ListPricesOptions {
  provider?: string
  model?: string
  /** Only those that apply at this instant. */
  at?: Date
  /** The id of the last price of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists prices in the order in which they were created, past and future ones too. @throws {ValidationError} */
export async function listPrices(
  db: Database,
  { provider, model, at, after, limit = 100 }: ListPricesOptions = {},
): Promise<ModelPrice[]> {
  if (provider !== undefined) checkText('provider', provider, { max: MAX_PROVIDER })
  if (model !== undefined) checkText('model', model, { max: MAX_MODEL })
  if (at !== undefined) checkInstant('at', at)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_PAGE)
  const prices = modelPrices
  return run(
    db
      .select()
      .from(prices)
      .where(
        and(
          provider !== undefined ? eq(prices.provider, provider) : undefined,
          model !== undefined ? eq(prices.model, model) : undefined,
          at && lte(prices.validFrom, at),
          at && or(isNull(prices.validTo), gt(prices.validTo, at)),
          after !== undefined ? gt(prices.id, after) : undefined,
        ),
      )
      .orderBy(asc(prices.id))
      .limit(limit),
  )
}
