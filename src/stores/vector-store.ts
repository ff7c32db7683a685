import {
  ConnectionError,
  MissingPackageError,
  type PlinthError,
  StoreError,
  TimeoutError,
  ValidationError,
} from '../errors.ts'
import type { SpaceDistance } from '../schema/search.ts'
import { checkList, checkUuid } from '../validation.ts'

/** What a vector is found by in another engine. */
export interface VectorKey {
  organizationId: string
  /** The chunk's. */
  id: string
}

export interface VectorRecord extends VectorKey {
  /** Rounded to half precision: an engine that keeps no less gives it back as it was. */
  vector: readonly number[]
  /** Of the vector, as plinth knows it; kept and given back as it is. */
  hash: string
}

/** What an engine has of a vector. */
export interface StoredVector extends VectorKey {
  hash: string
  /** Where it was asked for. */
  vector?: number[]
}

export interface StoreCall {
  /** Ends the waiting; what the engine was told may still be done. */
  signal?: AbortSignal | undefined
}

export interface EnsureNamespaceOptions extends StoreCall {
  /** Of a to z, 0 to 9, _ and -, up to 50. */
  namespace: string
  dimensions: number
  distance: SpaceDistance
}

export interface StoreQuery extends StoreCall {
  /** Whose vectors are looked at. An engine must never answer with another one's. */
  organizationId: string
  vector: readonly number[]
  limit: number
}

/** What a query has found. */
export interface NearVector {
  id: string
  /** As pgvector has it: 1 - cosine, the Euclidean distance, or the negative inner product. */
  distance: number
}

export interface NamespaceDescription {
  vectors: number
  /** Of storage; null if the engine does not say. */
  bytes: number | null
  dimensions: number
}

/**
 * Another engine that holds vectors. plinth keeps the truth; what is here can be made again at any time.
 *
 * Every method throws a {@link StoreError}, within a time that the store was made with. All writes are
 * idempotent: they may be repeated by whoever does not know how the last one ended.
 */
export interface VectorStore {
  /** As namespaces have it as `provider`. */
  readonly name: string
  /** Makes a namespace, unless it is there. `refused` if it is there for other vectors. */
  ensureNamespace(options: EnsureNamespaceOptions): Promise<void>
  /** Writes up to 1,000 vectors, each under its key, in place of the one that is there. */
  upsert(namespace: string, records: readonly VectorRecord[], call?: StoreCall): Promise<void>
  /** Deletes up to 1,000 vectors; those that are not there as well. */
  delete(namespace: string, keys: readonly VectorKey[], call?: StoreCall): Promise<void>
  /**
   * The vectors nearest to one, nearest first, by id where they are as near: `limit` of them, while the
   * organization has as many.
   */
  query(namespace: string, query: StoreQuery): Promise<NearVector[]>
  describe(namespace: string, call?: StoreCall): Promise<NamespaceDescription>
  /** Those of up to 1,000 vectors that are there, in any order; with the vectors themselves on request. */
  fetch(
    namespace: string,
    keys: readonly VectorKey[],
    call?: StoreCall & { vectors?: boolean },
  ): Promise<StoredVector[]>
  /** Lists what is there, by organization and id: up to 1,000, after a key. */
  list(
    namespace: string,
    page: StoreCall & { after?: VectorKey | undefined; limit: number },
  ): Promise<StoredVector[]>
  /** Drops a namespace and all that is in it. Idempotent. */
  dropNamespace(namespace: string, call?: StoreCall): Promise<void>
  /** Twice is once. */
  close(): Promise<void>
}

/** What one call of a store takes, so that what is known of a vector fits into one statement or file. */
export const MAX_RECORDS = 1_000

export interface WithinOptions {
  store: string
  timeoutMs: number
  signal?: AbortSignal | undefined
}

/**
 * Waits for what an engine does, no longer than `timeoutMs`, and not after the signal. It may go on after.
 *
 * @throws {StoreError} for every failure but a ValidationError; the signal's reason.
 */
export async function within<T>(
  { store, timeoutMs, signal }: WithinOptions,
  work: () => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted()
  let timer: NodeJS.Timeout | undefined
  let abort = () => {}
  const ended = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new StoreError(store, 'timeout', `no answer within ${timeoutMs} ms`)),
      timeoutMs,
    )
    abort = () => reject(signal?.reason)
    signal?.addEventListener('abort', abort, { once: true })
  })
  try {
    return await Promise.race([work(), ended])
  } catch (error) {
    signal?.throwIfAborted()
    throw toStoreError(store, error)
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
  }
}

/**
 * What plinth throws for an error of another engine: of one that it knows, which kind; else `refused`. A
 * missing package and an argument out of range stay what they are.
 */
export function toStoreError(store: string, error: unknown): PlinthError {
  if (
    error instanceof StoreError ||
    error instanceof ValidationError ||
    error instanceof MissingPackageError
  ) {
    return error
  }
  // What Drizzle puts around a driver's error has the query's parameters in its message.
  let cause = error
  while (cause instanceof Error && cause.cause instanceof Error) cause = cause.cause
  const message = (cause instanceof Error ? cause.message : String(cause)).slice(0, 500)
  if (error instanceof ConnectionError) {
    return new StoreError(store, 'unavailable', message, { cause })
  }
  if (error instanceof TimeoutError) {
    const kind = error.waitedFor === 'connection' ? 'unavailable' : 'timeout'
    return new StoreError(store, kind, message, { cause })
  }
  return new StoreError(store, 'refused', message, { cause })
}

/** Checks what stands for a namespace in an engine's own language. */
export function checkNamespaceName(store: string, namespace: string): void {
  if (!/^[a-z0-9][a-z0-9_-]{0,49}$/.test(namespace)) {
    throw new StoreError(store, 'refused', 'a namespace is of a to z, 0 to 9, _ and -, up to 50')
  }
}

/** Checks the keys of a call, which stand in an engine's own language too. */
export function checkKeys(keys: readonly VectorKey[]): void {
  checkList('keys', keys, { max: MAX_RECORDS })
  for (const [at, { organizationId, id }] of keys.entries()) {
    checkUuid(`keys[${at}].organizationId`, organizationId)
    checkUuid(`keys[${at}].id`, id)
  }
}
