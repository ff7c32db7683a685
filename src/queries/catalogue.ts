import type { ModelInfo, ModelPrice as PricesByKey } from '@pydantic/genai-prices'
import { sql } from 'drizzle-orm'
import { type Database, mapErrors, rowsOf, run } from '../database.ts'
import { ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import { type ModelPrice, modelPrices, type PriceUnit, priceUnit } from '../schema/costs.ts'
import {
  checkBigint,
  checkInstant,
  checkInteger,
  checkItem,
  checkList,
  checkProvider,
  checkText,
  MAX_MODEL,
} from '../validation.ts'

/** The source of the prices that `importPrices` writes, and of no others. */
export const CATALOGUE_SOURCE = 'genai-prices'

/** When a price begins of which the catalogue does not say it: before any call that could be billed. */
export const CATALOGUE_START = new Date('2020-01-01T00:00:00Z')

/** As `@pydantic/genai-prices` has it, and its data file. */
export interface CatalogueProvider {
  id: string
  models: readonly Pick<ModelInfo, 'id' | 'prices'>[]
}

export interface ImportPricesOptions {
  /** Ids of the catalogue, such as `openai`. All of them, unless said. */
  providers?: readonly string[]
  /** When a price that has changed since the last import changes: now, unless said. */
  validFrom?: Date
  /** Counts only, and writes nothing. */
  dryRun?: boolean
  /** Another catalogue than the one that was installed, such as a newer one of your own. */
  catalogue?: readonly CatalogueProvider[]
}

export interface ImportedPrices {
  inserted: number
  /** Ended, or taken back before they began. */
  closed: number
  unchanged: number
  /** Prices of the catalogue that the table cannot express, or that a price of another source overlaps. */
  skipped: number
}

/**
 * Imports the catalogue of `@pydantic/genai-prices`, which is in the package: nothing is fetched.
 *
 * - A second import changes nothing. A price that has changed ends at `validFrom`, and the new one begins
 *   there; so does the end of a unit or tier that its model no longer has. What was before stays.
 * - A model that has gone from the catalogue keeps its prices.
 * - Prices of other sources are never touched, and where they overlap one of the catalogue they win.
 * - A price of which the catalogue does not say since when it applies does so from `CATALOGUE_START`.
 * - A model whose price depends on the time of the day is skipped whole: with one of its prices its
 *   calls would be billed wrongly, and without they are on record as unpriced.
 * - What is priced by input tokens alone, or is called `…embed…`, has that price for `embedding` too, since
 *   there it is the same tokens, whichever name the caller counts them under.
 * - Skipped is what is priced by what is not counted here: modalities by tokens, an hour's cache, searches, pages.
 *
 * Importers take turns, in one transaction.
 *
 * @throws {ConstraintError} `model_prices_validity_excl` against a price created at the same time; run it again.
 * @throws {ValidationError} also for a provider that the catalogue does not have, and for one with a slash.
 */
export async function importPrices(
  db: Database,
  { providers, validFrom, dryRun = false, catalogue }: ImportPricesOptions = {},
): Promise<ImportedPrices> {
  if (validFrom !== undefined) checkInstant('validFrom', validFrom)
  const read = readCatalogue(await chooseProviders(providers, catalogue))

  return mapErrors(() =>
    db.transaction(async (tx) => {
      await rowsOf(
        tx,
        sql`select pg_advisory_xact_lock(hashtextextended('plinth.model_prices', 0))`,
      )
      const at = validFrom?.getTime() ?? (await clock(tx)).getTime()
      const existing = await run(tx.select().from(modelPrices))
      const { inserts, closes, deletes, unchanged, overlapped } = compareCatalogue(
        read,
        existing,
        at,
      )
      if (!dryRun) {
        // In this order, since what begins must not overlap what ends.
        if (deletes.length > 0) await deleteRows(tx, deletes)
        if (closes.length > 0) await closeRows(tx, closes)
        if (inserts.length > 0) await insertRows(tx, inserts)
      }
      return {
        inserted: inserts.length,
        closed: closes.length + deletes.length,
        unchanged,
        skipped: read.skipped + overlapped,
      }
    }),
  )
}

/** The database's clock, at the precision that is stored. */
async function clock(db: Database): Promise<Date> {
  const [row] = await rowsOf<{ now: string }>(db, sql`select now()::timestamptz(3) as now`)
  return new Date(row?.now ?? Number.NaN)
}

/** The providers of the catalogue, or those of them that are wanted. */
async function chooseProviders(
  providers: readonly string[] | undefined,
  catalogue: readonly CatalogueProvider[] | undefined,
): Promise<readonly CatalogueProvider[]> {
  if (providers !== undefined) {
    checkList('providers', providers, { min: 1, max: 100 })
    providers.forEach((id, index) => {
      checkProvider(`providers[${index}]`, id)
    })
  }
  if (catalogue !== undefined) {
    checkList('catalogue', catalogue, { max: 10_000 })
    for (const [index, provider] of catalogue.entries()) {
      checkItem(`catalogue[${index}]`, provider, () => {
        checkProvider('id', provider.id)
        checkList('models', provider.models, { max: 100_000 })
      })
    }
  }
  // What waitForUpdate answers is the package's own data, unless the process has had it updated.
  const all = catalogue ?? (await (await import('@pydantic/genai-prices')).waitForUpdate()) ?? []
  const known = new Set(all.map(({ id }) => id))
  const missing = providers?.findIndex((id) => !known.has(id)) ?? -1
  if (missing >= 0) {
    throw new ValidationError(`providers[${missing}]`, 'is not in the catalogue')
  }
  return all.filter(({ id }) => providers?.includes(id) ?? true)
}

/** From when until when, exclusive, in milliseconds; `Infinity` is until further notice. */
interface Span {
  from: number
  to: number
}

interface Stretch extends Span {
  nanosPerMillion: bigint
}

interface PriceKey {
  provider: string
  model: string
  unit: PriceUnit
  tierFrom: number
}

interface Timeline extends PriceKey {
  /** Oldest first, none touching one of the same price. */
  stretches: Stretch[]
}

interface Catalogue {
  timelines: Map<string, Timeline>
  models: Set<string>
  /** Prices that the table cannot express. */
  skipped: number
}

const modelKey = ({ provider, model }: Pick<PriceKey, 'provider' | 'model'>) =>
  JSON.stringify([provider, model])
const priceKey = ({ provider, model, unit, tierFrom }: PriceKey) =>
  JSON.stringify([provider, model, unit, tierFrom])

/** Reads the prices that the table can express. @throws {ValidationError} for a model that is none. */
function readCatalogue(providers: readonly CatalogueProvider[]): Catalogue {
  const read: Catalogue = { timelines: new Map(), models: new Set(), skipped: 0 }
  for (const { id: provider, models } of providers) {
    for (const [index, model] of models.entries()) {
      checkItem(`catalogue of ${provider}: models[${index}]`, model, () => {
        checkText('id', model.id, { max: MAX_MODEL })
        try {
          readModel(read, provider, model)
        } catch (error) {
          if (error instanceof ValidationError) throw error
          throw new ValidationError('prices', 'are not as @pydantic/genai-prices has them')
        }
      })
    }
  }
  return read
}

function readModel(
  read: Catalogue,
  provider: string,
  { id: model, prices }: CatalogueProvider['models'][number],
): void {
  read.models.add(modelKey({ provider, model }))
  const versions = Array.isArray(prices) ? prices : [{ prices }]
  const changesDaily = versions.some(({ constraint }) => constraint?.type === 'time_of_date')

  // From the last to the first, as the catalogue has it read: the later one wins where both apply.
  let to = Number.POSITIVE_INFINITY
  for (const { constraint, prices } of versions.toReversed()) {
    const { units, unknown } = readUnits(model, prices)
    read.skipped += unknown + (changesDaily ? units.length : 0)
    const from =
      constraint?.type === 'start_date'
        ? Date.parse(constraint.start_date)
        : CATALOGUE_START.getTime()
    if (changesDaily || from >= to) continue
    for (const { unit, tierFrom, nanosPerMillion } of units) {
      const key = { provider, model, unit, tierFrom }
      const timeline = read.timelines.get(priceKey(key)) ?? { ...key, stretches: [] }
      const next = timeline.stretches[0]
      if (next?.from === to && next.nanosPerMillion === nanosPerMillion) next.from = from
      else timeline.stretches.unshift({ from, to, nanosPerMillion })
      read.timelines.set(priceKey(key), timeline)
    }
    to = from
  }
}

/** Which of the catalogue's units are ours, and the nano-dollars per million of ours in a dollar per one of its. */
const UNITS: Record<string, { unit: PriceUnit; scale: number }> = {
  input_mtok: { unit: 'input', scale: 1e9 },
  output_mtok: { unit: 'output', scale: 1e9 },
  cache_read_mtok: { unit: 'cache_read', scale: 1e9 },
  cache_write_mtok: { unit: 'cache_write', scale: 1e9 },
  output_reasoning_mtok: { unit: 'reasoning', scale: 1e9 },
  audio_hours: { unit: 'audio_second', scale: 1e15 / 3_600 },
  requests_kcount: { unit: 'request', scale: 1e12 },
}

type UnitPrice = Pick<ModelPrice, 'unit' | 'tierFrom' | 'nanosPerMillion'>

function readUnits(model: string, prices: PricesByKey): { units: UnitPrice[]; unknown: number } {
  const given = Object.entries(prices).filter(([, price]) => price !== undefined)
  const embeds = given.every(([key]) => key === 'input_mtok') || /embed/i.test(model)
  const units: UnitPrice[] = []
  let unknown = 0
  for (const [key, price] of given) {
    const known = UNITS[key]
    if (!known || price === undefined) {
      unknown += 1
      continue
    }
    const { base, tiers } = typeof price === 'number' ? { base: price, tiers: [] } : price
    for (const tier of [{ start: 0, price: base }, ...tiers]) {
      // Floats, but of few digits: rounding gives back the decimal that was meant.
      const nanosPerMillion = BigInt(Math.round(tier.price * known.scale))
      checkInteger('start', tier.start)
      checkBigint('price', nanosPerMillion)
      const row = { unit: known.unit, tierFrom: tier.start, nanosPerMillion }
      units.push(row)
      if (known.unit === 'input' && embeds) units.push({ ...row, unit: 'embedding' })
    }
  }
  return { units, unknown }
}

interface NewPrice extends PriceKey {
  id: string
  nanosPerMillion: string
  validFrom: string
  validTo: string | null
}

interface EndedPrice {
  id: string
  validTo: string | null
}

const isoOf = (time: number) => (Number.isFinite(time) ? new Date(time).toISOString() : null)
const spanOf = ({ validFrom, validTo }: ModelPrice): Span => ({
  from: validFrom.getTime(),
  to: validTo?.getTime() ?? Number.POSITIVE_INFINITY,
})

/** What has to be written so that from `at` on the table says what the catalogue says. */
function compareCatalogue(
  { timelines, models }: Catalogue,
  existing: readonly ModelPrice[],
  at: number,
) {
  const inserts: NewPrice[] = []
  const closes: EndedPrice[] = []
  const deletes: string[] = []
  let [unchanged, overlapped] = [0, 0]

  const ours = groupByKey(
    existing.filter((row) => row.source === CATALOGUE_SOURCE && models.has(modelKey(row))),
  )
  const others = groupByKey(existing.filter(({ source }) => source !== CATALOGUE_SOURCE))
  for (const key of new Set([...timelines.keys(), ...ours.keys()])) {
    const timeline = timelines.get(key)
    const rows = ours.get(key) ?? []
    const kept: Span[] = []
    for (const row of rows) {
      const span = spanOf(row)
      const from = Math.max(span.from, at)
      const same = timeline?.stretches.find(
        (stretch) =>
          stretch.from <= from &&
          from < stretch.to &&
          stretch.nanosPerMillion === row.nanosPerMillion,
      )
      const to = span.to <= at ? span.to : same ? Math.min(same.to, span.to) : from
      kept.push({ from: span.from, to })
      if (to === span.to) unchanged += 1
      else if (to > span.from) closes.push({ id: row.id, validTo: isoOf(to) })
      else deletes.push(row.id)
    }
    // The past of what was imported before is not rewritten; of what is new, it is taken over.
    const since = rows.length > 0 ? at : Number.NEGATIVE_INFINITY
    if (!timeline) continue
    const { stretches, ...names } = timeline
    for (const { nanosPerMillion, ...stretch } of stretches) {
      const wanted = { ...stretch, from: Math.max(stretch.from, since) }
      // Where a price that somebody has set holds, the catalogue's gives way, there and then only.
      const set = others.get(key)?.map(spanOf) ?? []
      const free = without(wanted, kept)
      if (free.some((span) => set.some((other) => overlap(span, other)))) overlapped += 1
      for (const { from, to } of free.flatMap((span) => without(span, set))) {
        inserts.push({
          ...names,
          id: uuidV7(),
          nanosPerMillion: String(nanosPerMillion),
          validFrom: new Date(from).toISOString(),
          validTo: isoOf(to),
        })
      }
    }
  }
  return { inserts, closes, deletes, unchanged, overlapped }
}

/** Map.groupBy, which Node 20 does not have. */
function groupByKey(rows: readonly ModelPrice[]): Map<string, ModelPrice[]> {
  const groups = new Map<string, ModelPrice[]>()
  for (const row of rows) {
    const group = groups.get(priceKey(row))
    if (group) group.push(row)
    else groups.set(priceKey(row), [row])
  }
  return groups
}

const overlap = (one: Span, other: Span) => one.from < other.to && other.from < one.to

/** What of a span no other one covers. */
const without = (span: Span, covers: readonly Span[]): Span[] =>
  covers
    .reduce<Span[]>(
      (left, cover) =>
        left.flatMap((piece) =>
          overlap(piece, cover)
            ? [
                { from: piece.from, to: Math.min(piece.to, cover.from) },
                { from: Math.max(piece.from, cover.to), to: piece.to },
              ]
            : [piece],
        ),
      [span],
    )
    .filter(({ from, to }) => from < to)

// One statement a kind of write, and one parameter: see recordActivities.

const deleteRows = (db: Database, ids: readonly string[]) =>
  rowsOf(
    db,
    sql`delete from ${modelPrices}
      where id = any(array(select json_array_elements_text(${JSON.stringify(ids)}::text::json)::uuid))`,
  )

const closeRows = (db: Database, rows: readonly EndedPrice[]) =>
  rowsOf(
    db,
    sql`update ${modelPrices} as price set valid_to = ended."validTo", updated_at = now()
      from json_to_recordset(${JSON.stringify(rows)}::text::json) as ended (id uuid, "validTo" timestamptz)
      where price.id = ended.id`,
  )

const insertRows = (db: Database, rows: readonly NewPrice[]) =>
  rowsOf(
    db,
    sql`insert into ${modelPrices} (id, provider, model, unit, tier_from, nanos_per_million, source,
        valid_from, valid_to)
      select id, provider, model, unit, "tierFrom", "nanosPerMillion", ${CATALOGUE_SOURCE},
        "validFrom", "validTo"
      from json_to_recordset(${JSON.stringify(rows)}::text::json) as rows (id uuid, provider text,
        model text, unit ${priceUnit}, "tierFrom" bigint, "nanosPerMillion" bigint,
        "validFrom" timestamptz, "validTo" timestamptz)
      returning id`,
  )
