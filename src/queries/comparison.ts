import { sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import { type EmbeddingModel, embedTexts } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import { type Space, searches } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { checkInteger, checkItem, checkList, checkText, checkUuid } from '../validation.ts'
import type { SearchFilters } from './filters.ts'
import { type SearchMatch, search } from './search.ts'

/** Queries that are compared, at most. */
const MAX_QUERIES = 50

/** Recorded searches among which the latest different queries are looked for. */
const MAX_RECORDED = 2_000

/** A space, and the model that its vectors are made by. */
export interface ComparedSpace {
  space: Space
  model: EmbeddingModel
}

export interface CompareSpacesOptions {
  /** Up to 50. The latest different ones on record unless said: see `record` of a search. */
  queries?: readonly string[]
  old: ComparedSpace
  new: ComparedSpace
  /** How many of the best of each are compared, up to 200; 10 unless said. */
  k?: number
  filters?: SearchFilters
  /** Given to both models. */
  signal?: AbortSignal
}

export interface ComparedQuery {
  query: string
  /** What both have found, as a share of the longer of the two lists: from 0 to 1, and 1 for two empty ones. */
  overlap: number
  /**
   * Kendall's tau-b of the two orders over what either has found, from -1 to 1, where what one has not
   * found is tied behind all that it has (Fagin et al. 2003). Null where one has no order: nothing, or all tied.
   */
  tau: number | null
  /** The best match in each. */
  oldTop: SearchMatch | undefined
  newTop: SearchMatch | undefined
}

export interface SpaceComparison {
  k: number
  /** In the order of the queries. */
  queries: ComparedQuery[]
  /** Of all queries; null without any. */
  meanOverlap: number | null
  /** Of those that have one. */
  meanTau: number | null
}

/**
 * Compares what a member finds by two spaces, query by query, side by side. Both are searched by vector
 * alone; any of the two may be building. Nothing is recorded.
 *
 * The models are called within the transaction.
 *
 * @throws {ValidationError} also for a model that is not of its space; what the models throw.
 */
export async function compareSpaces(
  tenant: Tenant,
  options: CompareSpacesOptions,
): Promise<SpaceComparison> {
  const { k = 10, filters = {}, signal } = options
  checkInteger('k', k, { min: 1, max: 200 })
  for (const name of ['old', 'new'] as const) {
    checkItem(name, options[name], () => checkCompared(options[name]))
  }
  if (options.queries !== undefined) {
    checkList('queries', options.queries, { max: MAX_QUERIES })
    for (const [at, query] of options.queries.entries()) {
      checkText(`queries[${at}]`, query, { max: 10_000 })
    }
  }
  const queries = options.queries ?? (await recordedQueries(tenant))
  await rowsOf(tenant.db, sql`select set_config('idle_in_transaction_session_timeout', '0', true)`)
  const [before, after] = [
    await embedTexts(options.old.model, queries, signal),
    await embedTexts(options.new.model, queries, signal),
  ]
  const compared: ComparedQuery[] = []
  for (const [at, query] of queries.entries()) {
    const find = async ({ space }: ComparedSpace, embedding: readonly number[] | undefined) =>
      (await search(tenant, { ...filters, space, embedding, mode: 'vector', limit: k })).matches
    const was = await find(options.old, before.embeddings[at])
    const is = await find(options.new, after.embeddings[at])
    const [wasIds, isIds] = [was, is].map((list) => list.map(({ chunkId }) => chunkId))
    compared.push({
      query,
      overlap: overlapOf(wasIds ?? [], isIds ?? []),
      tau: tauOf(wasIds ?? [], isIds ?? []),
      oldTop: was[0],
      newTop: is[0],
    })
  }
  return {
    k,
    queries: compared,
    meanOverlap: meanOf(compared.map(({ overlap }) => overlap)),
    meanTau: meanOf(compared.flatMap(({ tau }) => tau ?? [])),
  }
}

function checkCompared({ space, model }: ComparedSpace) {
  checkUuid('space.id', space?.id)
  checkText('space.provider', space.provider)
  checkText('space.model', space.model)
  if (model?.provider !== space.provider || model.modelId !== space.model) {
    throw new ValidationError(
      'model',
      `is ${model?.provider}/${model?.modelId}, and the space is for ${space.provider}/${space.model}`,
    )
  }
}

async function recordedQueries({ db, organizationId }: Tenant): Promise<string[]> {
  const rows = await rowsOf<{ query: string }>(
    db,
    sql`
      select query from (
        select query, occurred_at from ${searches}
        where organization_id = ${organizationId} and query is not null
        order by occurred_at desc, id desc limit ${MAX_RECORDED}
      ) as latest
      group by query order by max(occurred_at) desc, query limit ${MAX_QUERIES}`,
  )
  return rows.map(({ query }) => query)
}

/** The share of the longer list that is in both; 1 for two empty ones. */
function overlapOf(old: readonly string[], now: readonly string[]): number {
  const longest = Math.max(old.length, now.length)
  return longest === 0 ? 1 : now.filter((id) => old.includes(id)).length / longest
}

/** Kendall's tau-b over the union of two lists, where what a list lacks is tied behind it (Kendall 1945). */
function tauOf(old: readonly string[], now: readonly string[]): number | null {
  const placeIn = (list: readonly string[], id: string) => {
    const place = list.indexOf(id)
    return place === -1 ? list.length : place
  }
  const union = [...new Set([...old, ...now])].map((id) => [placeIn(old, id), placeIn(now, id)])
  let [agreed, untiedOld, untiedNew] = [0, 0, 0]
  for (const [at, [oldA = 0, newA = 0]] of union.entries()) {
    for (const [oldB = 0, newB = 0] of union.slice(at + 1)) {
      const [byOld, byNew] = [Math.sign(oldA - oldB), Math.sign(newA - newB)]
      agreed += byOld * byNew
      untiedOld += Math.abs(byOld)
      untiedNew += Math.abs(byNew)
    }
  }
  return untiedOld === 0 || untiedNew === 0 ? null : agreed / Math.sqrt(untiedOld * untiedNew)
}

const meanOf = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length
