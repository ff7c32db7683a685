import { sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import type { ContextItem } from '../schema/ai.ts'
import { chunks } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { checkFunction, checkInteger, checkItem, checkLimit, checkList } from '../validation.ts'
import { recordContext } from './ai.ts'
import type { SearchFilters } from './filters.ts'
import { type SearchMatch, type SearchOptions, search } from './search.ts'

const MAX_SOURCES = 20
const MAX_BUDGET = 2_000_000

/** The best of all sources, among which is chosen: each is compared with those before it. */
const MAX_CANDIDATES = 500

/** What is looked for in one kind of source, and how much of it there may be. */
export interface ContextSource extends SearchFilters {
  /** How many matches are looked at; up to 200, 20 unless said. */
  limit?: number
  /** How many tokens of the budget its passages may take; all of them unless said. */
  maxTokens?: number
}

export interface AssembleContextOptions
  extends Pick<
    SearchOptions,
    'query' | 'embedding' | 'space' | 'mode' | 'weights' | 'diversity' | 'recency'
  > {
  /** What the text may have, with its citations. */
  budgetTokens: number
  /** Searched one by one, up to 20; all that the member may see, unless said. */
  sources?: readonly ContextSource[]
  /** How many chunks before and after a match come with it as far as there is room; up to 5, 0 unless said. */
  neighbours?: number
  /** Counts the tokens of a text; a quarter of its characters, rounded up, unless said. */
  countTokens?: (text: string) => number
  /** Appends to the context logs. */
  record?: boolean
  /** For whom the context is; in the log only. */
  model?: string
}

/** Chunks of a source that follow one another, as one text. */
export interface ContextPassage extends ContextItem {
  text: string
  /** Of the best of its chunks. */
  similarity: number | null
  metadata: Record<string, unknown>
  /** Whether its end was left out to keep the budget. */
  isCut: boolean
}

export interface AssembledContext {
  /** The passages, each after its citation such as `[1]`, with an empty line between two. */
  text: string
  /** In the order of the text: the source with the best match first, and within it as it is read. */
  passages: ContextPassage[]
  /** Of the text; never more than the budget. */
  totalTokens: number
  /** How many matches were found, and how many of them say what a better one says already. */
  found: number
  duplicates: number
  /** Of the log, if it was recorded. */
  logId?: string
}

/**
 * Puts together what a model is to read for an answer: the best matches of several sources, without what is
 * said twice, neighbours as one passage, in an order to read, and never more tokens than the budget has. The
 * best match that does not fit any more is cut at a word.
 *
 * @throws what `search` throws; {ValidationError} for a budget that is none.
 */
export async function assembleContext(
  tenant: Tenant,
  options: AssembleContextOptions,
): Promise<AssembledContext> {
  checkOptions(options)
  const { budgetTokens, sources = [{}], neighbours = 0, record = false, query, model } = options
  const found = await findMatches(tenant, options, sources)
  const unique = withoutDuplicates(found.slice(0, MAX_CANDIDATES))
  const around = neighbours > 0 ? await readNeighbours(tenant, unique, neighbours) : []
  // A neighbour is worth less than every match, and may be what was left out.
  const candidates = withoutDuplicates([...unique, ...around])
  const { countTokens = (text: string) => Math.ceil(text.length / 4) } = options
  const count = (text: string) => {
    const tokens = countTokens(text)
    checkInteger('countTokens', tokens)
    return tokens
  }
  const taken = takeWhileFits(candidates, { budgetTokens, sources, count })
  const passages = passagesOf(taken).map((passage) => ({ ...passage, tokens: count(passage.text) }))
  const text = render(passages)
  const totalTokens = text === '' ? 0 : count(text)
  const assembled = {
    ...{ text, passages, totalTokens },
    ...{ found: found.length, duplicates: Math.min(found.length, MAX_CANDIDATES) - unique.length },
  }
  if (!record) return assembled
  const items = passages.map(
    ({ chunkIds, sourceType, sourceId, positions, citation, tokens, score }) => ({
      ...{ chunkIds, sourceType, sourceId, positions, citation, tokens, score },
    }),
  )
  const entry = { items, budgetTokens, totalTokens, query, model }
  return { ...assembled, logId: await recordContext(tenant, entry) }
}

function checkOptions({ budgetTokens, sources, neighbours, countTokens }: AssembleContextOptions) {
  if (countTokens !== undefined) checkFunction('countTokens', countTokens)
  checkInteger('budgetTokens', budgetTokens, { min: 1, max: MAX_BUDGET })
  if (neighbours !== undefined) checkInteger('neighbours', neighbours, { max: 5 })
  if (sources === undefined) return
  checkList('sources', sources, { min: 1, max: MAX_SOURCES })
  for (const [at, source] of sources.entries()) {
    checkItem(`sources[${at}]`, source, () => {
      if (source.limit !== undefined) checkLimit(source.limit, 200)
      if (source.maxTokens !== undefined) {
        checkInteger('maxTokens', source.maxTokens, { min: 1, max: MAX_BUDGET })
      }
    })
  }
}

/** A chunk that may be taken, and for which of the sources. */
interface Candidate
  extends Omit<SearchMatch, 'vectorRank' | 'textRank' | 'ownerId' | 'occurredAt'> {
  source: number
  isCut?: boolean
}

/** The matches of all sources, best first; each chunk once, for the source that has ranked it best. */
async function findMatches(
  tenant: Tenant,
  { query, embedding, space, mode, weights, diversity, recency }: AssembleContextOptions,
  sources: readonly ContextSource[],
): Promise<Candidate[]> {
  const asked = { query, embedding, space, mode, weights, diversity, recency }
  const found: Candidate[] = []
  for (const [source, { limit = 20, maxTokens: _, ...filters }] of sources.entries()) {
    const { matches } = await search(tenant, { ...asked, ...filters, limit })
    found.push(...matches.map((match) => ({ ...match, source })))
  }
  const seen = new Set<string>()
  return found.sort(byScore).filter(({ chunkId }) => {
    const isNew = !seen.has(chunkId)
    seen.add(chunkId)
    return isNew
  })
}

const byScore = (a: Candidate, b: Candidate) =>
  b.score - a.score || (b.similarity ?? 0) - (a.similarity ?? 0) || (a.chunkId < b.chunkId ? -1 : 1)

/** Words in a row, and how many of the rows of the shorter text make it a repetition of the longer one. */
const SHINGLE = 4
const REPETITION = 0.8

/**
 * Leaves out what a better one says already: the same words, or a text of which most stands in the other
 * (containment of shingles, Broder 1997).
 */
function withoutDuplicates(candidates: readonly Candidate[]): Candidate[] {
  const kept: { shingles: Set<string> }[] = []
  return candidates.filter(({ content }) => {
    const shingles = shinglesOf(content)
    const isRepeated = kept.some(({ shingles: other }) => {
      const [few, many] = shingles.size < other.size ? [shingles, other] : [other, shingles]
      let common = 0
      for (const shingle of few) if (many.has(shingle)) common += 1
      return common >= few.size * REPETITION
    })
    if (!isRepeated) kept.push({ shingles })
    return !isRepeated
  })
}

function shinglesOf(text: string): Set<string> {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [text]
  const rows = words.slice(0, Math.max(words.length - SHINGLE + 1, 1))
  return new Set(rows.map((_, at) => words.slice(at, at + SHINGLE).join(' ')))
}

/** The chunks beside the matches, those of the best match first, and the nearest of them first. */
async function readNeighbours(
  { db, organizationId }: Tenant,
  candidates: readonly Candidate[],
  distance: number,
): Promise<Candidate[]> {
  if (candidates.length === 0) return []
  const wanted = JSON.stringify(
    candidates.map(({ sourceType, sourceId, position }, at) => ({
      ...{ at, t: sourceType, i: sourceId, p: position },
    })),
  )
  type Row = Pick<SearchMatch, 'chunkId' | 'position' | 'content'> & { at: number }
  const rows = await rowsOf<Row>(
    db,
    sql`
      select distinct on (c.id) c.id as "chunkId", c.position, c.content, w.at
      from json_to_recordset(${wanted}::text::json) as w (at integer, t text, i text, p integer)
      join ${chunks} c on c.organization_id = ${organizationId} and c.source_type = w.t and c.source_id = w.i
        and c.position between w.p - ${distance}::integer and w.p + ${distance}::integer
      order by c.id, abs(c.position - w.p), w.at`,
  )
  const own = new Set(candidates.map(({ chunkId }) => chunkId))
  return rows
    .filter(({ chunkId }) => !own.has(chunkId))
    .flatMap(({ at, ...row }) => {
      const match = candidates[at]
      return match ? [{ ...match, ...row, similarity: null, match }] : []
    })
    .sort(
      (a, b) =>
        byScore(a.match, b.match) ||
        Math.abs(a.position - a.match.position) - Math.abs(b.position - b.match.position) ||
        a.position - b.position,
    )
    .map(({ match: _, ...row }) => row)
}

interface Room {
  budgetTokens: number
  sources: readonly ContextSource[]
  count: (text: string) => number
}

/** What a cut is worth, in characters: less is no sentence. */
const LEAST_CUT = 40

/** Takes the best as long as all together fit, as it is counted over the whole text, and cuts the first that does not. */
function takeWhileFits(candidates: readonly Candidate[], room: Room): Candidate[] {
  const { budgetTokens, count } = room
  const within = withinQuotas(candidates, room)
  const fits = (taken: readonly Candidate[]) => count(render(passagesOf(taken))) <= budgetTokens
  // Counted a few times only: a tokenizer is slow, and more text has more tokens.
  let [low, high] = [0, within.length]
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (fits(within.slice(0, middle))) low = middle
    else high = middle - 1
  }
  const taken = within.slice(0, low)
  const next = within[low]
  const cut = next && cutToFit(next, (one) => fits([...taken, one]))
  return cut ? [...taken, cut] : taken
}

/** What the sources may have, each by its own tokens; the first of a source that is too much for it is cut. */
function withinQuotas(
  candidates: readonly Candidate[],
  { budgetTokens, sources, count }: Room,
): Candidate[] {
  const left = sources.map(({ maxTokens = MAX_BUDGET }) => maxTokens)
  const within: Candidate[] = []
  let total = 0
  for (const candidate of candidates) {
    // No text is shorter than what it is made of, but for what two neighbours repeat.
    if (total > budgetTokens * 2) break
    const quota = left[candidate.source] ?? 0
    const tokens = count(candidate.content)
    left[candidate.source] = tokens <= quota ? quota - tokens : 0
    const kept =
      tokens <= quota
        ? candidate
        : quota > 0
          ? cutToFit(candidate, (one) => count(one.content) <= quota)
          : undefined
    if (!kept) continue
    within.push(kept)
    total += Math.min(tokens, quota)
  }
  return within
}

/** The longest beginning of a chunk, up to the end of a word, that fits; undefined if that is next to nothing. */
function cutToFit(candidate: Candidate, fits: (cut: Candidate) => boolean): Candidate | undefined {
  const ends = [...candidate.content.matchAll(/\S(?=\s|$)/g)].map(({ index }) => index + 1)
  const cutAt = (end: number) => ({
    ...candidate,
    content: candidate.content.slice(0, end),
    isCut: true,
  })
  let [low, high] = [0, ends.length]
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (fits(cutAt(ends[middle - 1] ?? 0))) low = middle
    else high = middle - 1
  }
  const end = ends[low - 1] ?? 0
  return end >= LEAST_CUT ? cutAt(end) : undefined
}

/** Neighbours as one passage; the source with the best match first, and within it as it is read. */
function passagesOf(taken: readonly Candidate[]): ContextPassage[] {
  const bySource = new Map<string, Candidate[]>()
  for (const one of [...taken].sort(byScore)) {
    const key = JSON.stringify([one.sourceType, one.sourceId])
    bySource.set(key, [...(bySource.get(key) ?? []), one])
  }
  const passages: ContextPassage[] = []
  for (const group of bySource.values()) {
    let last: ContextPassage | undefined
    for (const one of group.sort((a, b) => a.position - b.position)) {
      if (last && !last.isCut && one.position === last.positions[1] + 1) {
        last.text = joined(last.text, one.content)
        last.chunkIds.push(one.chunkId)
        last.positions[1] = one.position
        last.isCut = one.isCut ?? false
        last.score = Math.max(last.score, one.score)
        last.similarity = last.similarity ?? one.similarity
        continue
      }
      const { chunkId, content: text, position, isCut = false, sourceType, sourceId } = one
      last = {
        ...{ chunkIds: [chunkId], sourceType, sourceId, text, isCut, metadata: one.metadata },
        positions: [position, position],
        ...{
          citation: passages.length + 1,
          score: one.score,
          similarity: one.similarity,
          tokens: 0,
        },
      }
      passages.push(last)
    }
  }
  return passages
}

/** So many characters are not repeated by chance, wherever they begin and end. */
const SURE_OVERLAP = 20

/**
 * Two chunks that follow one another, without what the second repeats of the first. A short repetition
 * counts if it is several whole words: a letter, or a word, is the same by chance.
 */
function joined(first: string, second: string): string {
  for (let length = Math.min(first.length, second.length, 2_000); length > 0; length -= 1) {
    const repeated = second.slice(0, length)
    if (!first.endsWith(repeated)) continue
    const rest = second.slice(length)
    const isWhole = /(^|\s)$/.test(first.slice(0, -length)) && /^(\s|$)/.test(rest)
    if (length >= SURE_OVERLAP || (isWhole && /\S\s+\S/.test(repeated))) return first + rest
  }
  return `${first}\n${second}`
}

const render = (passages: readonly ContextPassage[]): string =>
  passages.map(({ citation, text }) => `[${citation}] ${text}`).join('\n\n')
