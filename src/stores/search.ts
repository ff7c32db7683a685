import { sql } from 'drizzle-orm'
import { only, rowsOf } from '../database.ts'
import { StoreError, ValidationError } from '../errors.ts'
import { countQueries } from '../queries/placements.ts'
import { candidatesOf, type SearchOptions, type SearchResult, search } from '../queries/search.ts'
import type { Namespace } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { checkInteger, checkUuid, checkVector } from '../validation.ts'
import { type NearVector, toStoreError, type VectorStore, within } from './vector-store.ts'

/** What `search` takes of another engine's, at most. */
const MAX_NEAR = 20_000

export interface SearchPlacedOptions extends Omit<SearchOptions, 'near' | 'maxScan'> {
  store: VectorStore
  /** Where the vectors of `space` are in the store. */
  namespace: Pick<Namespace, 'id' | 'name' | 'spaceId' | 'provider'>
  /** How long the store is waited for, all its calls together; 2,000 ms unless said. */
  timeoutMs?: number
  signal?: AbortSignal
}

export interface PlacedSearchResult extends SearchResult {
  /** Whose vectors were searched. A search by text alone needs none, and is the database's. */
  servedBy: 'store' | 'database'
  /** Why it was not the store. */
  reason?: string
}

/**
 * Searches as `search` does, with the vectors of another engine: the same matches, as of the last
 * synchronization. What the store finds is shown and filtered here, and twice as much is asked for until
 * as many have passed as were wanted, so that the answer is never short.
 *
 * Falls back on the vectors here where the store fails, does not answer in time, has fewer of the
 * organization than are here, or 20,000 of its nearest are not enough for the filters; on the words alone where the organization has no vectors here. Says so.
 * Counts itself in `namespaces.queries`, at most once a minute for each store object and namespace; what
 * was not yet counted when a process ends is not.
 *
 * The transaction is open while the store is waited for. Not within `readInTenant`.
 *
 * @throws what `search` throws; the signal's reason.
 */
export async function searchPlaced(
  tenant: Tenant,
  options: SearchPlacedOptions,
): Promise<PlacedSearchResult> {
  const { store, namespace, timeoutMs = 2_000, signal, ...asked } = options
  const { embedding, space, mode } = asked
  checkInteger('timeoutMs', timeoutMs, { min: 1, max: 600_000 })
  checkUuid('namespace.id', namespace.id)
  if (namespace.provider !== store.name) {
    throw new ValidationError(
      'store',
      `is ${store.name}, and the namespace is in ${namespace.provider}`,
    )
  }
  if (!embedding || !space || mode === 'text') {
    return { ...(await search(tenant, asked)), servedBy: 'database', reason: 'by text alone' }
  }
  if (namespace.spaceId !== space.id) {
    throw new ValidationError('space', 'is not the one that the namespace holds')
  }
  checkVector('embedding', embedding, space.dimensions)

  const deadline = performance.now() + timeoutMs
  const ask = (limit: number) =>
    within(
      { store: store.name, timeoutMs: Math.max(1, deadline - performance.now()), signal },
      () =>
        store.query(namespace.name, {
          organizationId: tenant.organizationId,
          vector: embedding,
          limit,
          signal,
        }),
    )
  const answer = await searchNear(tenant, asked, ask, store.name)
  if ('result' in answer) {
    await countUse(tenant, store, namespace.id)
    return { ...answer.result, servedBy: 'store' }
  }
  const isHere = await hasMore(tenant, space.id, 0)
  const result = await search(tenant, asked)
  const reason = isHere ? answer.reason : `${answer.reason}; there are no vectors here either`
  return { ...result, servedBy: 'database', reason }
}

type Ask = (limit: number) => Promise<NearVector[]>

async function searchNear(
  tenant: Tenant,
  asked: Omit<SearchOptions, 'near' | 'maxScan'>,
  ask: Ask,
  store: string,
): Promise<{ result: SearchResult } | { reason: string }> {
  const wanted = candidatesOf(
    asked,
    asked.mode ?? (asked.query === undefined ? 'vector' : 'hybrid'),
  )
  for (let count = wanted; ; count = Math.min(count * 2, MAX_NEAR)) {
    let found: NearVector[]
    try {
      found = await ask(count)
    } catch (error) {
      const failure = toStoreError(store, error)
      if (!(failure instanceof StoreError)) throw error
      return { reason: failure.message }
    }
    const near = found.map(({ id, distance }) => ({ chunkId: id, distance }))
    const isAll = found.length < count
    if (isAll && (await hasMore(tenant, asked.space?.id, found.length))) {
      return { reason: `${store}: it has fewer vectors of the organization than are here` }
    }
    // Not to be recorded before it is the last one; a search that asks for more is another one.
    const first = await search(tenant, { ...asked, near, explain: true, record: false })
    const passed = first.explain?.vector?.found ?? 0
    if (passed >= wanted || isAll) {
      if (asked.record) return { result: await search(tenant, { ...asked, near }) }
      const { explain, ...result } = first
      return { result: asked.explain && explain ? { ...result, explain } : result }
    }
    if (count === MAX_NEAR) {
      return { reason: `${store}: of the ${MAX_NEAR} nearest, ${passed} passed the filters` }
    }
  }
}

/** Whether the organization has more vectors here than so many. */
const hasMore = async ({ db }: Tenant, spaceId: string | undefined, bound: number) =>
  only(
    await rowsOf<{ has: boolean }>(
      db,
      sql`select search.exceeds(${spaceId ?? null}::uuid, ${bound}::integer) as has`,
    ),
  ).has

const COUNT_EVERY_MS = 60_000

interface Use {
  queries: number
  countedAt: number
}

/** What was not counted yet, for as long as there is the store. */
const uses = new WeakMap<VectorStore, Map<string, Use>>()

async function countUse(tenant: Tenant, store: VectorStore, namespaceId: string): Promise<void> {
  const ofStore = uses.get(store) ?? new Map<string, Use>()
  uses.set(store, ofStore)
  const use = ofStore.get(namespaceId) ?? { queries: 0, countedAt: Number.NEGATIVE_INFINITY }
  ofStore.set(namespaceId, use)
  use.queries += 1
  if (performance.now() - use.countedAt < COUNT_EVERY_MS) return
  const times = use.queries
  use.countedAt = performance.now()
  use.queries = 0
  if (!(await countQueries(tenant, { namespaceId, times }))) use.queries += times
}
