import type { Database } from '../database.ts'
import { ForbiddenError } from '../errors.ts'
import {
  listUnplaced,
  type NamespaceDrift,
  namespaceDrift,
  recordVerification,
  samplePlacements,
} from '../queries/namespaces.ts'
import {
  deletePlaced,
  listPlaced,
  type PlacedVector,
  refreshPlacements,
  resendPlacements,
} from '../queries/placements.ts'
import type { Namespace } from '../schema/search.ts'
import { asService, type Tenant } from '../tenant.ts'
import { checkInteger } from '../validation.ts'
import { openNamespace, organizationsOf } from './sync.ts'
import { MAX_RECORDS, type StoredVector, type VectorKey, type VectorStore } from './vector-store.ts'

export interface ReconcileNamespaceOptions {
  /** Its id. */
  namespace: string
  store: VectorStore
  /** How many vectors are compared with the store's, number by number: up to 10,000, 100 unless said. */
  sample?: number
  /** Goes through all of the store, and not only where its count is another one than it should be. */
  full?: boolean
  /** Has what was found sent again, or deleted, by the next synchronization; also what was given up. */
  repair?: boolean
  signal?: AbortSignal
}

export interface NamespaceReport extends NamespaceDrift {
  /** Vectors that the store has. */
  remote: number
  /** Whether the whole of the store was gone through; unless so, the next two are 0 and not looked for. */
  isFull: boolean
  /** Placed here as current, and not there or another one there. */
  lost: number
  /** There, and nothing here knows of them. */
  extra: number
  /** How many vectors were compared, and of how many the store has another one or none. */
  sampled: number
  mismatched: number
  /** Whether there is nothing to be done. */
  isInSync: boolean
}

/**
 * Compares what another engine has of a space with what is here: counts, a sample of vectors as such, and
 * all of them by their hashes where the counts differ. Records count, bytes and time with the namespace.
 *
 * `repair` says what is to be done and leaves the doing to `syncNamespace`; only vectors of organizations
 * that are archived or no more, and without a placement, are deleted at once. Run it while others write as well: what is on its way is no drift.
 *
 * @throws as `syncNamespace`.
 */
export async function reconcileNamespace(
  db: Database,
  options: ReconcileNamespaceOptions,
): Promise<NamespaceReport> {
  const { namespace: id, store, sample = 100, full = false, repair = false, signal } = options
  checkInteger('sample', sample, { max: 10_000 })
  const namespace = await openNamespace(db, { id, store, signal })
  const review: Review = { db, namespace, store, repair, signal }

  const { vectors: remote, bytes } = await store.describe(namespace.name, { signal })
  const drift = await namespaceDrift(db, id)
  await recordVerification(db, { id, vectors: remote, bytes })
  const isFull = full || remote !== drift.placed
  const mismatched =
    sample > 0 ? await compareSample(review, sample) : { sampled: 0, mismatched: 0 }
  const lost = isFull ? await findLost(review) : 0
  const extra = isFull ? await findExtra(review) : 0
  if (repair) await repairPlacements(review)

  const { missing, stale, pending, deleting, dead } = drift
  const isInSync =
    missing + stale + pending + deleting + dead + lost + extra + mismatched.mismatched === 0
  return { ...drift, remote, isFull, lost, extra, ...mismatched, isInSync }
}

interface Review {
  db: Database
  namespace: Namespace
  store: VectorStore
  repair: boolean
  signal: AbortSignal | undefined
}

/** Runs work on an organization, unless it is archived meanwhile. */
async function onOrganization<T>(
  db: Database,
  organizationId: string,
  work: (tenant: Tenant) => Promise<T>,
): Promise<T | undefined> {
  try {
    return await asService(db, organizationId, work)
  } catch (error) {
    if (error instanceof ForbiddenError && error.reason.startsWith('organization_')) return
    throw error
  }
}

/** Of placed vectors, those that the store has not, or not as they are here; to be sent again, on repair. */
async function differing(
  { db, namespace, store, repair, signal }: Review,
  organizationId: string,
  placed: readonly PlacedVector[],
  isSame: (placed: PlacedVector, stored: StoredVector) => boolean,
  vectors: boolean,
): Promise<number> {
  if (placed.length === 0) return 0
  const keys = placed.map(({ chunkId }) => ({ organizationId, id: chunkId }))
  const found = await store.fetch(namespace.name, keys, { vectors, signal })
  const stored = new Map(found.map((one) => [one.id, one]))
  const suspects = placed.flatMap((one) => {
    const other = stored.get(one.chunkId)
    return other && isSame(one, other) ? [] : [one.chunkId]
  })
  if (suspects.length === 0) return 0
  // What was sent, changed or deleted while the store was asked is no drift.
  const still = await onOrganization(db, organizationId, async (tenant) => {
    const now = await listPlaced(tenant, { namespace, chunkIds: suspects })
    const hashes = new Map(placed.map(({ chunkId, hash }) => [chunkId, hash]))
    const chunkIds = now
      .filter(({ chunkId, hash }) => hashes.get(chunkId) === hash)
      .map(({ chunkId }) => chunkId)
    if (repair && chunkIds.length > 0) {
      await resendPlacements(tenant, { namespaceId: namespace.id, chunkIds })
    }
    return chunkIds.length
  })
  return still ?? 0
}

async function compareSample(review: Review, sample: number) {
  const keys = await samplePlacements(review.db, { id: review.namespace.id, limit: sample })
  const chunks = new Map<string, string[]>()
  for (const { organizationId, chunkId } of keys) {
    chunks.set(organizationId, [...(chunks.get(organizationId) ?? []), chunkId])
  }
  const result = { sampled: 0, mismatched: 0 }
  for (const [organizationId, all] of chunks) {
    for (let at = 0; at < all.length; at += MAX_RECORDS) {
      const chunkIds = all.slice(at, at + MAX_RECORDS)
      const placed = await onOrganization(review.db, organizationId, (tenant) =>
        listPlaced(tenant, { namespace: review.namespace, chunkIds }),
      )
      if (!placed) continue
      const isSame = (one: PlacedVector, stored: StoredVector) =>
        one.hash === stored.hash && isNear(one.vector, stored.vector)
      result.sampled += placed.length
      result.mismatched += await differing(review, organizationId, placed, isSame, true)
    }
  }
  return result
}

/** What half precision leaves open: 11 bits of a number, and the smallest that there is. */
const RELATIVE = 2 ** -10
const ABSOLUTE = 2 ** -24

function isNear(here: readonly number[] | null, there: readonly number[] | undefined): boolean {
  return (
    here !== null &&
    here.length === there?.length &&
    here.every((number, at) => {
      const other = there[at] ?? Number.NaN
      return Math.abs(number - other) <= Math.max(Math.abs(number) * RELATIVE, ABSOLUTE)
    })
  )
}

/** Goes through the placements, and asks the store for each by its hash. */
async function findLost(review: Review): Promise<number> {
  const { db, namespace, signal } = review
  let lost = 0
  for await (const organizationId of organizationsOf(db, namespace.id)) {
    for (let after: string | undefined; ; ) {
      signal?.throwIfAborted()
      const page: PlacedVector[] =
        (await onOrganization(db, organizationId, (tenant) =>
          listPlaced(tenant, { namespace, after }),
        )) ?? []
      const isSame = (one: PlacedVector, stored: StoredVector) => one.hash === stored.hash
      lost += await differing(review, organizationId, page, isSame, false)
      after = page.at(-1)?.chunkId
      if (after === undefined) break
    }
  }
  return lost
}

/** Goes through the store, and asks the placements for each. */
async function findExtra({ db, namespace, store, repair, signal }: Review): Promise<number> {
  let extra = 0
  for (let after: VectorKey | undefined; ; ) {
    const page: StoredVector[] = await store.list(namespace.name, {
      after,
      limit: MAX_RECORDS,
      signal,
    })
    after = page.at(-1)
    if (after === undefined) return extra
    const keys = page.map(({ organizationId, id }) => ({ organizationId, id }))
    const unplaced = await listUnplaced(db, { id: namespace.id, keys })
    extra += unplaced.length
    if (!repair) continue
    const orphans = unplaced.filter(({ isKnown }) => !isKnown)
    if (orphans.length > 0) {
      const gone = orphans.map(({ organizationId, chunkId }) => ({ organizationId, id: chunkId }))
      await store.delete(namespace.name, gone, { signal })
    }
    // As placements, so that one that is placed meanwhile is not deleted.
    for (const organizationId of new Set(unplaced.map((one) => one.organizationId))) {
      const chunkIds = unplaced
        .filter((one) => one.isKnown && one.organizationId === organizationId)
        .map(({ chunkId }) => chunkId)
      if (chunkIds.length === 0) continue
      await onOrganization(db, organizationId, (tenant) =>
        deletePlaced(tenant, { namespaceId: namespace.id, chunkIds }),
      )
    }
  }
}

async function repairPlacements({ db, namespace, signal }: Review): Promise<void> {
  for await (const organizationId of organizationsOf(db, namespace.id)) {
    signal?.throwIfAborted()
    await onOrganization(db, organizationId, async (tenant) => {
      await resendPlacements(tenant, { namespaceId: namespace.id })
      await refreshPlacements(tenant, namespace)
    })
  }
}
