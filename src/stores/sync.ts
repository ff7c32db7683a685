import type { Database } from '../database.ts'
import { ForbiddenError, StoreError, ValidationError } from '../errors.ts'
import { getNamespace, listOffloadingOrganizations } from '../queries/namespaces.ts'
import {
  type ClaimedPlacement,
  claimPlacements,
  type PlacementOutcome,
  refreshPlacements,
  settlePlacements,
} from '../queries/placements.ts'
import { getSpace } from '../queries/spaces.ts'
import type { Namespace } from '../schema/search.ts'
import { asService } from '../tenant.ts'
import { checkInteger, keptText } from '../validation.ts'
import { MAX_RECORDS, toStoreError, type VectorStore } from './vector-store.ts'

/** Between two tries, at most. */
const LAST_RETRY_MS = 3_600_000

/** So many batches without an answer in time, one after the other, are an engine that is down. */
const MAX_TIMEOUTS = 3

export interface SyncProgress {
  organizationId: string
  upserted: number
  deleted: number
  failed: number
}

export interface SyncNamespaceOptions {
  /** Its id. */
  namespace: string
  store: VectorStore
  /** Vectors in a call of the store: up to 1,000, 100 unless said. */
  batchSize?: number
  /** For how long a batch is nobody else's; longer than a call of the store may take. 60,000 unless said. */
  leaseMs?: number
  /** How often a vector may be refused before it is given up; 8 unless said. */
  maxAttempts?: number
  /** Before the second try; before each further one twice as long, up to an hour. 1,000 unless said. */
  retryMs?: number
  /** Ends it between two batches, or while it waits for the store. */
  signal?: AbortSignal
  /** Called after each batch. */
  onProgress?: (progress: SyncProgress) => void
}

export interface SyncedNamespace {
  /** Those that were gone through. */
  organizations: number
  upserted: number
  deleted: number
  /** To be tried again later, and given up. */
  failed: number
  dead: number
  /** Why it ended before all was done. What is left is done by the next run. */
  stopped?: StoreError
}

interface Run {
  db: Database
  namespace: Namespace
  options: Required<
    Pick<SyncNamespaceOptions, 'batchSize' | 'leaseMs' | 'maxAttempts' | 'retryMs'>
  > &
    Pick<SyncNamespaceOptions, 'store' | 'signal' | 'onProgress'>
  result: SyncedNamespace
  timeouts: number
}

/**
 * Makes what another engine has of a space what it is here: organization by organization, batch by batch.
 * Several may run at once, and one that was interrupted anywhere is gone on with by the next, after
 * `leaseMs` at the latest. Archived organizations are left as they are.
 *
 * What the store refuses is tried again after a time that doubles, in ever smaller batches within a run, so
 * that one bad vector costs no other; after `maxAttempts` it is `dead`, until `reconcileNamespace` repairs.
 * A store that is not there costs no attempt: the run ends with `stopped`.
 *
 * Not within a transaction: the store is called between them.
 *
 * @throws {NotFoundError} for an unknown namespace; the signal's reason; {StoreError} if the store has the
 * namespace for other vectors, or cannot make it.
 * @throws {ValidationError} also for a store of another name than the namespace's provider.
 */
export async function syncNamespace(
  db: Database,
  { namespace: id, ...options }: SyncNamespaceOptions,
): Promise<SyncedNamespace> {
  const { batchSize = 100, leaseMs = 60_000, maxAttempts = 8, retryMs = 1_000 } = options
  checkInteger('batchSize', batchSize, { min: 1, max: MAX_RECORDS })
  checkInteger('leaseMs', leaseMs, { min: 1, max: 86_400_000 })
  checkInteger('maxAttempts', maxAttempts, { min: 1, max: 100 })
  checkInteger('retryMs', retryMs, { min: 1, max: LAST_RETRY_MS })
  const namespace = await openNamespace(db, { ...options, id })
  const run: Run = {
    db,
    namespace,
    options: { ...options, batchSize, leaseMs, maxAttempts, retryMs },
    result: { organizations: 0, upserted: 0, deleted: 0, failed: 0, dead: 0 },
    timeouts: 0,
  }
  for await (const organizationId of organizationsOf(db, id)) {
    if (run.result.stopped) break
    options.signal?.throwIfAborted()
    await syncOrganization(run, organizationId)
    run.result.organizations += 1
  }
  return run.result
}

/**
 * Returns a namespace, which the store has from then on.
 *
 * @throws as `syncNamespace`.
 */
export async function openNamespace(
  db: Database,
  { id, store, signal }: { id: string; store: VectorStore; signal?: AbortSignal | undefined },
): Promise<Namespace> {
  const namespace = await getNamespace(db, id)
  if (namespace.provider !== store.name) {
    throw new ValidationError(
      'store',
      `is ${store.name}, and the namespace is in ${namespace.provider}`,
    )
  }
  const { dimensions, distance } = await getSpace(db, namespace.spaceId)
  await store.ensureNamespace({ namespace: namespace.name, dimensions, distance, signal })
  return namespace
}

/** The organizations that a namespace is for, by id. */
export async function* organizationsOf(db: Database, id: string): AsyncGenerator<string> {
  for (let after: string | undefined; ; ) {
    const page: string[] = await listOffloadingOrganizations(db, { id, after })
    yield* page
    after = page.at(-1)
    if (after === undefined) return
  }
}

async function syncOrganization(run: Run, organizationId: string): Promise<void> {
  const { db, namespace } = run
  const { batchSize, leaseMs, signal } = run.options
  try {
    await asService(db, organizationId, (tenant) => refreshPlacements(tenant, namespace))
    while (!run.result.stopped) {
      signal?.throwIfAborted()
      const claimed = await asService(db, organizationId, (tenant) =>
        claimPlacements(tenant, { namespace, limit: batchSize, leaseMs }),
      )
      if (claimed.length === 0) return
      await syncBatch(run, organizationId, claimed)
    }
  } catch (error) {
    // Archived meanwhile.
    if (!(error instanceof ForbiddenError) || !error.reason.startsWith('organization_')) throw error
  }
}

/** Sends a batch, and writes down what came of it. */
async function syncBatch(
  run: Run,
  organizationId: string,
  claimed: readonly ClaimedPlacement[],
): Promise<void> {
  const { store, signal, onProgress } = run.options
  const name = run.namespace.name
  const settle = (outcomes: PlacementOutcome[]) =>
    asService(run.db, organizationId, (tenant) =>
      settlePlacements(tenant, {
        namespaceId: run.namespace.id,
        leaseId: claimed[0]?.leaseId ?? '',
        outcomes,
      }),
    )
  try {
    const outcomes: PlacementOutcome[] = []
    const [gone, present] = partition(claimed)
    outcomes.push(
      ...(await attempt(run, gone, async (batch) => {
        const keys = batch.map(({ chunkId }) => ({ organizationId, id: chunkId }))
        await store.delete(name, keys, { signal })
        return batch.map(({ chunkId }) => ({ chunkId, outcome: 'deleted' }))
      })),
      ...(await attempt(run, present, async (batch) => {
        const records = batch.map(({ chunkId: id, vector, hash }) => ({
          organizationId,
          id,
          vector,
          hash,
        }))
        await store.upsert(name, records, { signal })
        return batch.map(({ chunkId, hash }) => ({ chunkId, outcome: 'synced', hash }))
      })),
    )
    await settle(outcomes)
    const batch = count(run.result, outcomes)
    onProgress?.({ organizationId, ...batch })
  } catch (error) {
    await settle(claimed.map(({ chunkId }) => ({ chunkId, outcome: 'released' })))
    throw error
  }
}

interface Present extends ClaimedPlacement {
  vector: number[]
  hash: string
}

function partition(claimed: readonly ClaimedPlacement[]): [ClaimedPlacement[], Present[]] {
  const present = claimed.flatMap(({ vector, hash, ...rest }) =>
    vector !== null && hash !== null ? [{ ...rest, vector, hash }] : [],
  )
  return [claimed.filter(({ vector }) => vector === null), present]
}

/** Has the store take a batch, and if it refuses that, each half of it. */
async function attempt<Placement extends ClaimedPlacement>(
  run: Run,
  batch: readonly Placement[],
  send: (batch: readonly Placement[]) => Promise<PlacementOutcome[]>,
): Promise<PlacementOutcome[]> {
  if (batch.length === 0) return []
  const released = () => batch.map(({ chunkId }) => ({ chunkId, outcome: 'released' }) as const)
  if (run.result.stopped) return released()
  try {
    const outcomes = await send(batch)
    run.timeouts = 0
    return outcomes
  } catch (thrown) {
    run.options.signal?.throwIfAborted()
    const error = toStoreError(run.options.store.name, thrown)
    if (!(error instanceof StoreError)) throw error
    if (error.kind === 'timeout') run.timeouts += 1
    if (error.kind === 'unavailable' || run.timeouts >= MAX_TIMEOUTS) {
      run.result.stopped = error
      if (error.kind === 'unavailable') return released()
    }
    if (error.kind === 'refused' && batch.length > 1) {
      const middle = Math.ceil(batch.length / 2)
      const halves = [batch.slice(0, middle), batch.slice(middle)]
      const outcomes: PlacementOutcome[] = []
      for (const half of halves) outcomes.push(...(await attempt(run, half, send)))
      return outcomes
    }
    const { maxAttempts, retryMs } = run.options
    return batch.map(({ chunkId, attempts }) => ({
      chunkId,
      outcome: 'failed',
      error: keptText(error.message, 500),
      // From half to all of it, so that those of one batch do not come back all at once.
      retryMs: Math.min(retryMs * 2 ** attempts, LAST_RETRY_MS) * (0.5 + Math.random() / 2),
      isDead: attempts + 1 >= maxAttempts,
    }))
  }
}

function count(result: SyncedNamespace, outcomes: readonly PlacementOutcome[]) {
  const of = (outcome: PlacementOutcome['outcome']) =>
    outcomes.filter((one) => one.outcome === outcome).length
  const batch = { upserted: of('synced'), deleted: of('deleted'), failed: of('failed') }
  const dead = outcomes.filter((one) => one.outcome === 'failed' && one.isDead).length
  result.upserted += batch.upserted
  result.deleted += batch.deleted
  result.failed += batch.failed - dead
  result.dead += dead
  return batch
}
