import { type SQL, sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import { vectorText } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import {
  chunks,
  embeddings,
  type SearchMode,
  type Space,
  searchMode,
  spaceDistance,
} from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInteger,
  checkItem,
  checkLimit,
  checkList,
  checkNumber,
  checkOneOf,
  checkText,
  checkUuid,
  checkVector,
} from '../validation.ts'
import { checkFilters, filterArguments, givenFilters, type SearchFilters } from './filters.ts'
import { recordSearch } from './searches.ts'

const MAX_RESULTS = 200
const MAX_GIVEN = 20_000

/** Of reciprocal rank fusion: how little the first rank counts above the second (Cormack et al. 2009). */
const RRF_K = sql.raw('60')

/**
 * How many each arm is asked for: more than the answer has where it is chosen among them, since what both
 * arms have found comes first.
 */
export function candidatesOf(
  { limit = 10, recency, diversity = 0 }: SearchOptions,
  mode: SearchMode,
): number {
  const isChosen = mode === 'hybrid' || recency !== undefined || (mode !== 'text' && diversity > 0)
  return isChosen ? Math.max(limit * 4, 40) : limit
}

export interface SearchOptions extends SearchFilters {
  /** As typed into a search box: words, "phrases", or, -exclusions, and the beginnings of wor*. */
  query?: string | undefined
  /** What the query means, by the model of `space`; see `embedTexts`. */
  embedding?: readonly number[] | undefined
  space?: Pick<Space, 'id' | 'dimensions' | 'distance'> | undefined
  /** What is given decides unless said: `query` and `embedding` make a hybrid search. */
  mode?: SearchMode
  /** Up to 200. */
  limit?: number
  /** How much each arm of a hybrid search counts; 1 and 1 unless said. */
  weights?: { vector?: number; text?: number }
  /**
   * From 0 to 1: how much a match that is like a better one is put back, by maximal marginal relevance;
   * 0 unless said. With an embedding only.
   */
  diversity?: number
  /**
   * Lets scores fall with age: by half of `weight` (0 to 1; 0.5 unless said) in each half-life, so that of
   * a score with weight 1 nothing is left in the end.
   */
  recency?: { halfLifeDays: number; weight?: number }
  /**
   * How many vectors the index may look at. Where that is too few, the answer is short and `truncated`;
   * unless said, it is completed by a scan.
   */
  maxScan?: number
  /**
   * What another engine has found nearest, in place of this database's vectors: up to 20,000, shown and
   * filtered by the same rules.
   */
  near?: readonly { chunkId: string; distance: number }[]
  /** Adds `snippet`: the part of the content that has the words of the query, and which they are. */
  snippets?: boolean
  /** Adds how the answer was found, and how long that took. */
  explain?: boolean
  /** Appends to the log of searches, which `readInTenant` cannot. */
  record?: boolean
}

/** A stretch of a snippet. Pieces and not marks in a text, which would be somebody's markup too. */
export interface SnippetPart {
  text: string
  /** Whether it is a word of the query. */
  isMatch: boolean
}

export interface SearchMatch {
  chunkId: string
  sourceType: string
  sourceId: string
  position: number
  content: string
  metadata: Record<string, unknown>
  ownerId: string | null
  occurredAt: Date
  /** By which the matches are ordered, but for `diversity`; comparable within one search only. */
  score: number
  /**
   * Cosine similarity, from -1 to 1; 1 / (1 + distance) for l2; the inner product itself. Null for a
   * chunk without a vector, and in a search by text.
   */
  similarity: number | null
  /** From 1, in each arm; null if the arm has not found it. */
  vectorRank: number | null
  textRank: number | null
  snippet?: SnippetPart[]
}

/** How an arm of a search has found what it found. */
export interface SearchArm {
  /**
   * Of vectors: `exact` for a scan of the slice, `index`, both if the index had too few, or `given`. Of
   * text: `words`, `similar words` if there were none, or null for a query without a word that means anything.
   */
  plan: 'exact' | 'index' | 'index, then exact' | 'given' | 'words' | 'similar words' | null
  /** How many it has found, of which the answer is a part. */
  found: number
  /** How large the slice is, as far as it was counted; null where nothing depends on it. */
  counted: number | null
  tookMs: number
}

export interface SearchExplanation {
  vector?: SearchArm
  text?: SearchArm
  /** With the way to the database and back. */
  tookMs: number
}

export interface SearchResult {
  /** Best first. */
  matches: SearchMatch[]
  /** Whether `maxScan` has ended the search before as many were looked at as would have matched. */
  truncated: boolean
  explain?: SearchExplanation
}

/**
 * Searches the organization's chunks by meaning, by words, or both. Best first; the same score in the order
 * in which the chunks were made.
 *
 * Right for a tenant of any size: see `search.nearest_chunks`. Both arms and their fusion by weighted
 * reciprocal rank are one statement. As many matches as `limit` asks for come back while as many chunks with
 * a vector pass the filters, in a search with an embedding. Text that no chunk has the words of finds words
 * that look alike. `weights`, `recency` and `diversity` order the best of each arm: four times `limit`, at least 40.
 *
 * @throws {ValidationError} also for an embedding that is not of the space.
 * @throws {NotFoundError} for a space that does not exist.
 * @throws {MissingPartitionError} when it is to be recorded in a month without a partition.
 */
export async function search(tenant: Tenant, options: SearchOptions): Promise<SearchResult> {
  const started = performance.now()
  const mode = checkSearch(options)
  const rows = await rowsOf<FoundRow>(tenant.db, searchQuery(tenant, options, mode))
  const tookMs = performance.now() - started
  const [first] = rows
  const matches = rows.flatMap((row) => matchOf(row, options) ?? [])
  const result: SearchResult = { matches, truncated: first?.arms.vector?.truncated ?? false }
  if (options.explain) {
    const { vector, text } = first?.arms ?? {}
    const arm = ({ truncated: _, ...found }: FoundArm): SearchArm => found
    result.explain = {
      ...(vector && { vector: arm(vector) }),
      ...(text && { text: arm(text) }),
      tookMs,
    }
  }
  if (options.record) {
    await recordSearch(tenant, {
      mode,
      query: options.query ?? null,
      spaceId: mode === 'text' ? null : (options.space?.id ?? null),
      filters: givenFilters(options),
      resultCount: matches.length,
      topSimilarity: matches[0]?.similarity ?? null,
      latencyMs: Math.round(tookMs),
    })
  }
  return result
}

/** The two arms, their fusion, and the chunks, as one statement. It has a row even if nothing is found. */
function searchQuery(tenant: Tenant, options: SearchOptions, mode: SearchMode): SQL {
  const { limit = 10, weights = {}, recency, snippets = false } = options
  const explain = options.explain === true
  const diversity = mode === 'text' ? 0 : (options.diversity ?? 0)
  // Numbers that were checked stand in the text: a plan that knows them is as good as one for each call.
  const rows = sql.raw(String(limit))
  const candidates = sql.raw(String(candidatesOf(options, mode)))
  const filters = filterArguments(options)
  const vector =
    mode === 'text' || !options.space || !options.embedding
      ? undefined
      : { ...options.space, text: sql`${vectorText(options.embedding)}::public.halfvec` }

  const arms = {
    vector: !vector
      ? NO_ARM
      : options.near
        ? sql`search.given_chunks(${givenArguments(options.near)}, ${candidates}, ${filters}, ${explain})`
        : sql`search.nearest_chunks(${vector.id}, ${vector.text}, ${candidates}, ${filters},
            ${options.maxScan ?? null}::integer, ${explain})`,
    text:
      mode === 'vector'
        ? NO_ARM
        : sql`search.matching_chunks(${options.query}, ${candidates}, ${filters}, ${explain})`,
  }
  // Of vectors always: a space that does not exist is an error even where there is no chunk to join.
  const described = (name: 'vector' | 'text') =>
    arms[name] === NO_ARM || (name === 'text' && !explain)
      ? sql`null`
      : sql`(select json_build_object('plan', plan, 'found', coalesce(cardinality(chunk_ids), 0),
          'counted', counted, 'tookMs', took_ms, 'truncated', truncated) from ${sql.raw(`${name}_arm`)})`

  // After 1,000 half-lives nothing is left that a float8 could hold: a larger exponent is an error.
  const score = recency
    ? sql`f.score * (1 - ${recency.weight ?? 0.5}::float8 * (1 - 0.5 ^ least(1000, greatest(0, extract(epoch from
        now() - c.occurred_at)) / 86400 / ${recency.halfLifeDays}::float8)))`
    : sql`f.score`
  const dated = recency
    ? sql`join ${chunks} c on c.organization_id = ${tenant.organizationId} and c.id = f.chunk_id`
    : sql``
  const best = diversity
    ? sql`select s.*, d.place from search.diverse_chunks(${vector?.id}::uuid,
          (select array_agg(chunk_id order by score desc, chunk_id) from scored),
          (select array_agg(score order by score desc, chunk_id) from scored), ${diversity}::float8, ${rows}) d
        join scored s on s.chunk_id = d.chunk_id`
    : sql`select *, null::integer as place from scored order by score desc, chunk_id limit ${rows}`

  const snippet =
    snippets && options.query !== undefined
      ? sql`ts_headline(c.language::text::regconfig, left(c.content, ${HEADLINE_LENGTH}::integer),
          search.query_terms(c.language, left(${options.query}, ${HEADLINE_QUERY}::integer)), ${HEADLINE})`
      : sql`null`
  const distance =
    mode !== 'hybrid' || !vector
      ? sql`b.distance`
      : sql`coalesce(b.distance, e.embedding operator(public.${OPERATORS[vector.distance]}) ${vector.text})`
  // Of what only the words have found, the similarity is computed from the stored vector.
  const stored =
    mode === 'hybrid' && vector
      ? sql`left join ${embeddings} e on b.distance is null and e.organization_id = c.organization_id
        and e.space_id = ${vector.id} and e.chunk_id = c.id`
      : sql``
  return sql`
    with vector_arm as materialized (select * from ${arms.vector}),
    text_arm as materialized (select * from ${arms.text}),
    near as (
      select u.* from vector_arm a, unnest(a.chunk_ids, a.distances) with ordinality u (chunk_id, distance, rank)),
    matching as (
      select u.* from text_arm a, unnest(a.chunk_ids) with ordinality u (chunk_id, rank)),
    fused as (
      select coalesce(n.chunk_id, m.chunk_id) as chunk_id, n.distance, n.rank as vector_rank, m.rank as text_rank,
        coalesce(${weights.vector ?? 1}::float8 / (${RRF_K} + n.rank), 0)
          + coalesce(${weights.text ?? 1}::float8 / (${RRF_K} + m.rank), 0) as score
      from near n full join matching m on m.chunk_id = n.chunk_id),
    scored as (
      select f.chunk_id, f.distance, f.vector_rank, f.text_rank, ${score} as score from fused f ${dated}
      order by score desc, chunk_id limit ${diversity ? sql.raw(String(MAX_DIVERSE)) : rows}),
    best as (${best}),
    found as (
      select c.id as "chunkId", c.source_type as "sourceType", c.source_id as "sourceId", c.position,
        c.content, c.metadata, c.owner_id as "ownerId", c.occurred_at as "occurredAt",
        b.score::float8 as score, (${distance})::float8 as distance,
        b.vector_rank::integer as "vectorRank", b.text_rank::integer as "textRank", ${snippet} as snippet, b.place
      from best b
      join ${chunks} c on c.organization_id = ${tenant.organizationId} and c.id = b.chunk_id
      ${stored})
    select json_build_object('vector', ${described('vector')}, 'text', ${described('text')}) as arms, found.*
    from (select) as one left join found on true
    order by found.place, found.score desc, found."chunkId"`
}

const NO_ARM = sql`(select null::uuid[] as chunk_ids, null::float8[] as distances, null::real[] as ranks)`

/** What is chosen among for diversity: each choice looks at all that are left. */
const MAX_DIVERSE = 400

type FoundArm = SearchArm & { truncated: boolean }

interface FoundRow extends Omit<SearchMatch, 'similarity' | 'snippet' | 'chunkId'> {
  arms: { vector: FoundArm | null; text: FoundArm | null }
  /** Null in the one row of an answer without a match. */
  chunkId: string | null
  distance: number | null
  snippet: string | null
  place: number | null
}

function matchOf(
  { arms: _arms, place: _place, chunkId, distance, snippet, occurredAt, ...row }: FoundRow,
  { space }: SearchOptions,
): SearchMatch | undefined {
  if (chunkId === null) return
  return {
    chunkId,
    ...row,
    ...(snippet !== null && { snippet: partsOf(snippet) }),
    occurredAt: new Date(occurredAt),
    similarity: distance === null || !space ? null : SIMILARITY[space.distance](distance),
  }
}

/** Around the words: two characters for private use, which mean nothing in a text. */
const [START, STOP] = ['\ue000', '\ue001']
const HEADLINE = `StartSel=${START}, StopSel=${STOP}, MaxFragments=2, MinWords=10, MaxWords=28`

/** What is looked at of a content and of a query, in characters: a headline of long phrases takes for ever. */
const HEADLINE_LENGTH = 8_000
const HEADLINE_QUERY = 200

const partsOf = (snippet: string): SnippetPart[] =>
  snippet.split(START).flatMap((piece, at) => {
    const [word = '', rest] = at === 0 ? ['', piece] : piece.split(STOP)
    return [
      { text: word, isMatch: true },
      { text: rest ?? '', isMatch: false },
    ].filter(({ text }) => text !== '')
  })

/** pgvector's operators. That of the inner product gives its negative, so that less is nearer. */
const OPERATORS = { cosine: sql.raw('<=>'), l2: sql.raw('<->'), inner_product: sql.raw('<#>') }

const SIMILARITY: Record<Space['distance'], (distance: number) => number> = {
  cosine: (distance) => 1 - distance,
  l2: (distance) => 1 / (1 + distance),
  inner_product: (distance) => -distance,
}

/** Checks all that a search is given, and says which kind it is. */
function checkSearch(options: SearchOptions): SearchMode {
  const { query, embedding, space, limit = 10, maxScan, near } = options
  checkLimit(limit, MAX_RESULTS)
  if (query !== undefined) checkText('query', query, { max: 10_000 })
  if (embedding !== undefined) {
    if (!space) throw new ValidationError('space', 'must say whose vector the embedding is')
    checkUuid('space.id', space.id)
    checkInteger('space.dimensions', space.dimensions)
    checkOneOf('space.distance', space.distance, spaceDistance.enumValues)
    checkVector('embedding', embedding, space.dimensions)
  }
  checkFilters(options)
  checkRanking(options)
  if (maxScan !== undefined) checkInteger('maxScan', maxScan, { min: 1, max: 10_000_000 })
  if (near !== undefined) {
    checkList('near', near, { max: MAX_GIVEN })
    for (const [at, one] of near.entries()) {
      checkItem(`near[${at}]`, one, () => {
        checkUuid('chunkId', one.chunkId)
        checkNumber('distance', one.distance)
      })
    }
  }
  const given = query === undefined ? 'vector' : embedding === undefined ? 'text' : 'hybrid'
  const mode = options.mode ?? given
  checkOneOf('mode', mode, searchMode.enumValues)
  if (mode !== 'vector' && query === undefined) {
    throw new ValidationError('query', `must be given for a ${mode} search`)
  }
  if (mode !== 'text' && embedding === undefined) {
    throw new ValidationError('embedding', `must be given for a ${mode} search`)
  }
  if (mode === 'text' && options.diversity) {
    throw new ValidationError(
      'diversity',
      'needs an embedding, and a search that is not by text alone',
    )
  }
  return mode
}

function checkRanking({ weights, diversity, recency }: SearchOptions) {
  if (weights !== undefined) {
    checkItem('weights', weights, () => {
      const { vector = 1, text = 1 } = weights
      checkNumber('vector', vector, { min: 0, max: 1_000 })
      checkNumber('text', text, { min: 0, max: 1_000 })
    })
  }
  if (diversity !== undefined) checkNumber('diversity', diversity, { min: 0, max: 1 })
  if (recency === undefined) return
  checkNumber('recency.halfLifeDays', recency?.halfLifeDays, { min: 0.001, max: 100_000 })
  if (recency.weight !== undefined)
    checkNumber('recency.weight', recency.weight, { min: 0, max: 1 })
}

function givenArguments(near: Required<SearchOptions>['near']): SQL {
  const [ids, distances] = [near.map((one) => one.chunkId), near.map((one) => one.distance)]
  return sql`array(select json_array_elements_text(${JSON.stringify(ids)}::text::json)::uuid),
    array(select json_array_elements_text(${JSON.stringify(distances)}::text::json)::float8)`
}
