import { and, eq, type SQL, sql } from 'drizzle-orm'
import { isBefore, rowsOf, run } from '../database.ts'
import { vectorText } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import {
  chunks,
  embeddings,
  type SearchMode,
  type SearchRecord,
  type Space,
  searches,
  searchMode,
} from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInstant,
  checkLimit,
  checkList,
  checkOneOf,
  checkText,
  checkUuid,
  checkVector,
} from '../validation.ts'

const MAX_RESULTS = 200

/** Of reciprocal rank fusion: how little the first rank counts above the second (Cormack et al. 2009). */
const RRF_K = 60

/** Each arm of a hybrid search is asked for more than the answer has: what both have found comes first. */
const candidatesFor = (limit: number) => Math.max(limit * 4, 40)

/** Which chunks are looked at; all that the member may see unless said. */
export interface SearchFilters {
  sourceTypes?: readonly string[]
  sourceIds?: readonly string[]
  projectId?: string
  categoryId?: string
  ownerId?: string
  /** By when the source was written or said; `until` is exclusive. */
  since?: Date
  until?: Date
}

export interface SearchOptions extends SearchFilters {
  /** As typed into a search box: words, "phrases", or, -exclusions. */
  query?: string
  /** What the query means, by the model of `space`; see `embedTexts`. */
  embedding?: readonly number[]
  space?: Pick<Space, 'id' | 'dimensions' | 'distance'>
  /** What is given decides unless said: `query` and `embedding` make a hybrid search. */
  mode?: SearchMode
  /** Up to 200. */
  limit?: number
  /** Adds `snippet`: the part of the content that has the words of the query, and which they are. */
  snippets?: boolean
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
  /** By which the matches are ordered; comparable within one search only. */
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

export interface SearchResult {
  /** Best first. */
  matches: SearchMatch[]
  /** Whether there may be nearer ones that were not looked at: only where `maxScan` says how far to look. */
  truncated: boolean
}

/**
 * Searches the organization's chunks by meaning, by words, or both. Best first.
 *
 * Right for a tenant of any size: see `search.nearest_chunks`. Both arms and their fusion by reciprocal
 * rank are one statement. As many matches as `limit` asks for come back while as many chunks pass the
 * filters, in a search with an embedding.
 *
 * @throws {ValidationError} also for an embedding that is not of the space.
 * @throws {NotFoundError} for a space that does not exist.
 * @throws {MissingPartitionError} when it is to be recorded in a month without a partition.
 */
export async function search(tenant: Tenant, options: SearchOptions): Promise<SearchResult> {
  const started = performance.now()
  const mode = checkSearch(options)
  const { limit = 10, record = false, snippets = false } = options
  const query = mode === 'vector' ? undefined : options.query
  const vector =
    mode !== 'text' && options.space && options.embedding
      ? { space: options.space, text: vectorText(options.embedding) }
      : undefined
  const candidates = mode === 'hybrid' ? candidatesFor(limit) : limit
  const filters = filterArguments(options)

  const arms: SQL[] = [
    vector
      ? sql`select chunk_id, distance, row_number() over (order by distance, chunk_id) as rank
          from search.nearest_chunks(${vector.space.id}, ${vector.text}::public.halfvec, ${candidates}, ${filters})`
      : sql`select null::uuid as chunk_id, null::float8 as distance, null::bigint as rank where false`,
    query === undefined
      ? sql`select null::uuid as chunk_id, null::bigint as rank where false`
      : sql`select chunk_id, row_number() over (order by rank desc, chunk_id) as rank
          from search.matching_chunks(${query}, ${candidates}, ${filters})`,
  ]
  const snippet =
    snippets && options.query !== undefined
      ? sql`, ts_headline('english', left(c.content, ${HEADLINE_LENGTH}::integer),
          websearch_to_tsquery('english', left(${options.query}, ${HEADLINE_QUERY}::integer)),
          ${HEADLINE}) as snippet`
      : sql``
  const distance = vector
    ? sql`coalesce(f.distance, e.embedding operator(public.${OPERATORS[vector.space.distance]}) ${vector.text}::public.halfvec)`
    : sql`null::float8`
  // Of what only the words have found, the similarity is computed from the stored vector.
  const stored = vector
    ? sql`left join ${embeddings} e on f.distance is null and e.organization_id = c.organization_id
        and e.space_id = ${vector.space.id} and e.chunk_id = c.id`
    : sql``
  const rows = await rowsOf<FoundRow>(
    tenant.db,
    sql`
      with near as (${arms[0]}), matching as (${arms[1]}),
      fused as (
        select coalesce(n.chunk_id, m.chunk_id) as chunk_id, n.distance,
          n.rank as vector_rank, m.rank as text_rank,
          coalesce(1.0 / (${RRF_K}::integer + n.rank), 0) + coalesce(1.0 / (${RRF_K}::integer + m.rank), 0) as score
        from near n full join matching m on m.chunk_id = n.chunk_id
        order by score desc, chunk_id limit ${limit}
      )
      select c.id as "chunkId", c.source_type as "sourceType", c.source_id as "sourceId", c.position,
        c.content, c.metadata, c.owner_id as "ownerId", c.occurred_at as "occurredAt",
        f.score::float8 as score, (${distance})::float8 as distance,
        f.vector_rank::integer as "vectorRank", f.text_rank::integer as "textRank"${snippet}
      from fused f
      join ${chunks} c on c.organization_id = ${tenant.organizationId} and c.id = f.chunk_id
      ${stored}
      order by f.score desc, c.id`,
  )
  const matches = rows.map(({ distance, snippet, ...row }) => ({
    ...row,
    ...(snippet !== undefined && { snippet: partsOf(snippet) }),
    occurredAt: new Date(row.occurredAt),
    similarity: distance === null || !vector ? null : SIMILARITY[vector.space.distance](distance),
  }))
  if (record) {
    await recordSearch(tenant, {
      mode,
      query: options.query ?? null,
      spaceId: vector?.space.id ?? null,
      filters: JSON.parse(JSON.stringify(givenFilters(options))),
      resultCount: matches.length,
      topSimilarity: matches[0]?.similarity ?? null,
      latencyMs: Math.round(performance.now() - started),
    })
  }
  return { matches, truncated: false }
}

interface FoundRow extends Omit<SearchMatch, 'similarity' | 'snippet'> {
  distance: number | null
  snippet?: string
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
  const { query, embedding, space, limit = 10 } = options
  checkLimit(limit, MAX_RESULTS)
  if (query !== undefined) checkText('query', query, { max: 10_000 })
  if (embedding !== undefined) {
    if (!space) throw new ValidationError('space', 'must say whose vector the embedding is')
    checkUuid('space.id', space.id)
    checkVector('embedding', embedding, space.dimensions)
  }
  checkFilters(options)
  const given = query === undefined ? 'vector' : embedding === undefined ? 'text' : 'hybrid'
  const mode = options.mode ?? given
  checkOneOf('mode', mode, searchMode.enumValues)
  if (mode !== 'vector' && query === undefined) {
    throw new ValidationError('query', `must be given for a ${mode} search`)
  }
  if (mode !== 'text' && embedding === undefined) {
    throw new ValidationError('embedding', `must be given for a ${mode} search`)
  }
  return mode
}

function checkFilters({ projectId, categoryId, ownerId, since, until, ...lists }: SearchFilters) {
  for (const name of ['sourceTypes', 'sourceIds'] as const) {
    const list = lists[name]
    if (list === undefined) continue
    checkList(name, list, { min: 1 })
    for (const [at, item] of list.entries()) checkText(`${name}[${at}]`, item)
  }
  for (const [name, id] of Object.entries({ projectId, categoryId, ownerId })) {
    if (id !== undefined) checkUuid(name, id)
  }
  if (since !== undefined) checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
}

const givenFilters = (options: SearchFilters): SearchFilters => {
  const { sourceTypes, sourceIds, projectId, categoryId, ownerId, since, until } = options
  return { sourceTypes, sourceIds, projectId, categoryId, ownerId, since, until }
}

/** The filters in the order in which both functions of the database take them. */
function filterArguments(options: SearchFilters): SQL {
  const list = (items: readonly string[] | undefined) =>
    items === undefined
      ? sql`null::text[]`
      : sql`array(select json_array_elements_text(${JSON.stringify(items)}::text::json))`
  return sql.join(
    [
      list(options.sourceTypes),
      list(options.sourceIds),
      sql`${options.projectId ?? null}::uuid`,
      sql`${options.categoryId ?? null}::uuid`,
      sql`${options.ownerId ?? null}::uuid`,
      sql`${options.since?.toISOString() ?? null}::timestamptz`,
      sql`${options.until?.toISOString() ?? null}::timestamptz`,
    ],
    sql`, `,
  )
}

type NewSearch = Omit<typeof searches.$inferInsert, 'organizationId' | 'userId'>

/** Appends to the log of searches; `search` does, when asked. */
async function recordSearch({ db, organizationId, userId }: Tenant, entry: NewSearch) {
  await run(db.insert(searches).values({ ...entry, organizationId, userId }))
}

export interface ListSearchesOptions {
  since?: Date
  /** The last search of the previous page. */
  after?: Pick<SearchRecord, 'occurredAt' | 'id'>
  /** Up to 500. */
  limit?: number
}

/** Lists the recorded searches, newest first: the member's own, for admins all. @throws {ValidationError} */
export async function listSearches(
  { db, organizationId }: Tenant,
  { since, after, limit = 50 }: ListSearchesOptions = {},
): Promise<SearchRecord[]> {
  if (since !== undefined) checkInstant('since', since)
  if (after !== undefined) {
    checkInstant('after.occurredAt', after.occurredAt)
    checkUuid('after.id', after.id)
  }
  checkLimit(limit, 500)
  return run(
    db
      .select()
      .from(searches)
      .where(
        and(
          eq(searches.organizationId, organizationId),
          since ? sql`${searches.occurredAt} >= ${since.toISOString()}` : undefined,
          after ? isBefore(searches.occurredAt, searches.id, after) : undefined,
        ),
      )
      .orderBy(sql`${searches.occurredAt} desc, ${searches.id} desc`)
      .limit(limit),
  )
}
