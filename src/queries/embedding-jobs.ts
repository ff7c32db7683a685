import { and, asc, eq, gt, is, sql } from 'drizzle-orm'
import { PgAsyncTransaction } from 'drizzle-orm/pg-core'
import { type Database, rowsOf, run } from '../database.ts'
import { type EmbeddingModel, embedTexts, pricedProvider } from '../embedding.ts'
import { ForbiddenError, LockError, ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  type EmbeddingJob,
  embeddingJobStatus,
  embeddingJobs,
  type Space,
} from '../schema/search.ts'
import { asService, type Tenant } from '../tenant.ts'
import {
  checkInteger,
  checkLimit,
  checkList,
  checkOneOf,
  checkUuid,
  checkVector,
} from '../validation.ts'
import { describeFailure, isRefusal, isRetryable } from './embedding-failures.ts'
import {
  type ClaimedJob,
  claimJobs,
  dueOrganizations,
  failJobs,
  type JobFailure,
  type JobVector,
  type Lease,
  releaseJobs,
  writeVectors,
} from './job-queue.ts'
import { getSpace } from './spaces.ts'
import { recordUsage } from './usage.ts'

/** Organizations whose jobs are done in turn. */
const RING = 100

/** Until a chunk that somebody was writing is tried again. */
const BUSY_DELAY_MS = 5_000

const WRITE_ATTEMPTS = 3

/** Any way to embed texts: vectors in the order of the texts, and how many tokens it was, if known. */
export type EmbedFunction = (
  texts: string[],
  options: { signal: AbortSignal },
) => PromiseLike<{ embeddings: number[][]; tokens?: number }>

export interface RunEmbeddingJobsOptions {
  space: Pick<Space, 'id'>
  /** A model of the space, such as any of the AI SDK. One of both has to be given. */
  model?: EmbeddingModel
  embed?: EmbedFunction
  /** Of these alone; up to 1,000. */
  organizationIds?: readonly string[]
  /** Calls at a time; 4 unless said, and 1 within a transaction. */
  concurrency?: number
  /** Of a call, by the chunks' token counts; 8,000 unless said. A longer chunk is a call of its own. */
  maxTokens?: number
  /** Texts in a call; 100 unless said, and never more than the model takes. */
  maxBatch?: number
  /** After which another worker may do it again, and a call is given up; 120,000 unless said. */
  leaseMs?: number
  /** After so many failures a job is `dead`; 5 unless said. */
  maxAttempts?: number
  /** Ends it: what is under way is given back, and the signal's reason thrown. */
  signal?: AbortSignal
}

export interface RunProgress {
  /** Vectors that were written. */
  embedded: number
  /** Failed attempts, and jobs that are dead by one. */
  failed: number
  dead: number
  /** Calls that were answered, what they took, and what they cost: null if one has no known price. */
  calls: number
  tokens: number
  costNanos: bigint | null
}

/**
 * Does the embedding jobs of a space that are due: claims them organization by organization, calls the
 * model outside of any transaction, and writes vectors, the end of the jobs, and the call's line in the
 * cost ledger in one. Returns when nothing is due any more.
 *
 * Any number of workers may run at once; none waits for another. Interrupted anywhere, a later run
 * finishes: a lease expires by the database's clock, and who has lost it writes no vector. A failed job is
 * tried again after 2, 4, 8 … seconds, up to a quarter of an hour; one that has failed twice by itself.
 *
 * @throws what the model throws where it refuses the caller (401, 403); the signal's reason.
 * @throws {NotFoundError} for an unknown space. @throws {MissingPartitionError} of the cost ledger.
 * @throws {ValidationError} also for a model that is not the space's.
 */
export async function runEmbeddingJobs(
  db: Database,
  options: RunEmbeddingJobsOptions & { onProgress?: (progress: RunProgress) => void },
): Promise<RunProgress> {
  const settings = await checkRun(db, options)
  const { signal, onProgress } = options
  const report: RunProgress = { ...NOTHING }
  let after: string | undefined
  let isBusy = false
  for (;;) {
    signal?.throwIfAborted()
    const ring = await dueOrganizations(db, { ...settings, after, limit: RING })
    if (ring.length > 0) {
      after = ring.at(-1)
      const work = (organizationId: string) => runBatch(db, organizationId, settings, report)
      const isWorked = await drain(ring, settings.concurrency, signal, work, () =>
        onProgress?.({ ...report }),
      )
      isBusy ||= isWorked
    } else if (isBusy) [after, isBusy] = [undefined, false]
    else return report
  }
}

type Settings = Awaited<ReturnType<typeof checkRun>>

/** Checks the options, and fills in what is not said. */
export async function checkRun(db: Database, options: RunEmbeddingJobsOptions) {
  const { model, embed, organizationIds, concurrency = 4, maxTokens = 8_000 } = options
  const { maxBatch = 100, leaseMs = 120_000, maxAttempts = 5, signal } = options
  checkUuid('space.id', options.space?.id)
  checkInteger('concurrency', concurrency, { min: 1, max: 64 })
  checkInteger('maxTokens', maxTokens, { min: 1, max: 10_000_000 })
  checkInteger('maxBatch', maxBatch, { min: 1, max: 2_048 })
  checkInteger('leaseMs', leaseMs, { min: 1_000, max: 3_600_000 })
  checkInteger('maxAttempts', maxAttempts, { min: 1, max: 100 })
  if (organizationIds !== undefined) {
    checkList('organizationIds', organizationIds)
    for (const [at, id] of organizationIds.entries()) checkUuid(`organizationIds[${at}]`, id)
  }
  if (!model === !embed) throw new ValidationError('model', 'or embed must be given, and not both')
  const space = await getSpace(db, options.space.id)
  if (model && (model.provider !== space.provider || model.modelId !== space.model)) {
    throw new ValidationError(
      'model',
      `is ${model.provider}/${model.modelId}, and the space is for ${space.provider}/${space.model}`,
    )
  }
  const mostOf = model ? ((await model.maxEmbeddingsPerCall) ?? maxBatch) : maxBatch
  if (!(mostOf >= 1)) throw new ValidationError('model.maxEmbeddingsPerCall', 'must be 1 or more')
  return {
    ...{ space, spaceId: space.id, organizationIds, maxTokens, leaseMs, maxAttempts, signal },
    maxBatch: Math.min(maxBatch, mostOf),
    // A transaction has one connection, and one scope at a time.
    concurrency: is(db, PgAsyncTransaction) ? 1 : concurrency,
    call: (texts: string[], callSignal: AbortSignal) =>
      model
        ? embedTexts(model, texts, callSignal)
        : Promise.resolve(embed?.(texts, { signal: callSignal })),
  }
}

/**
 * Works on organizations in turn, on several at a time, until none has anything left. Returns whether there
 * was anything.
 */
async function drain(
  ring: string[],
  concurrency: number,
  signal: AbortSignal | undefined,
  work: (organizationId: string) => Promise<boolean>,
  onStep: () => void,
): Promise<boolean> {
  let next = 0
  let isWorked = false
  let isFailed = false
  const lane = async () => {
    while (!isFailed) {
      const organizationId = ring[next % ring.length]
      if (organizationId === undefined) return
      next += 1
      try {
        signal?.throwIfAborted()
        if (await work(organizationId)) {
          isWorked = true
          onStep()
        } else if (ring.includes(organizationId)) ring.splice(ring.indexOf(organizationId), 1)
      } catch (error) {
        isFailed = true
        throw error
      }
    }
  }
  const lanes = await Promise.allSettled(Array.from({ length: concurrency }, lane))
  const failure = lanes.find((one) => one.status === 'rejected')
  if (failure) throw failure.reason
  return isWorked
}

/** Adds what was done to a sum. */
export function addTo(sum: RunProgress, done: RunProgress): void {
  for (const key of ['embedded', 'failed', 'dead', 'calls', 'tokens'] as const) {
    sum[key] += done[key]
  }
  sum.costNanos =
    sum.costNanos === null || done.costNanos === null ? null : sum.costNanos + done.costNanos
}

/** Does one batch of an organization's jobs. Returns whether there was one. */
async function runBatch(
  db: Database,
  organizationId: string,
  settings: Settings,
  report: RunProgress,
): Promise<boolean> {
  const lease: Lease = { spaceId: settings.spaceId, leaseId: uuidV7() }
  const { jobs, settled } = await asService(db, organizationId, (tenant) =>
    claimJobs(tenant, { ...settings, ...lease }),
  ).catch((error) => {
    // Archived meanwhile: its jobs wait until it is restored.
    if (error instanceof ForbiddenError && error.reason.startsWith('organization_')) {
      return { jobs: [], settled: 0 }
    }
    throw error
  })
  if (jobs.length === 0) return settled > 0
  const started = performance.now()
  const answer = await callModel(jobs, settings)
  const latencyMs = Math.round(performance.now() - started)
  await again(() =>
    asService(db, organizationId, (tenant) =>
      'error' in answer
        ? concedeBatch(tenant, lease, jobs, answer.error, settings)
        : writeBatch(tenant, lease, jobs, { ...answer, latencyMs }, settings),
    ),
  ).then((done) => addTo(report, done))
  settings.signal?.throwIfAborted()
  if ('error' in answer && isRefusal(answer.error)) throw answer.error
  return true
}

type Answer = { embeddings: number[][]; tokens?: number | undefined }

/** Calls the model, for as long as the lease lasts. */
async function callModel(
  jobs: readonly ClaimedJob[],
  { call, leaseMs, signal, maxBatch }: Settings,
): Promise<Answer | { error: unknown }> {
  const limit = AbortSignal.any([AbortSignal.timeout(leaseMs), ...(signal ? [signal] : [])])
  const texts = jobs.map(({ content }) => content)
  let stop = () => {}
  const ended = new Promise<never>((_, reject) => {
    stop = () => reject(limit.reason)
    limit.addEventListener('abort', stop, { once: true })
  })
  try {
    // What ended while the jobs were claimed tells no listener.
    limit.throwIfAborted()
    // Not every model looks at its signal.
    const answer = await Promise.race([call(texts, limit), ended])
    if (!Array.isArray(answer?.embeddings) || answer.embeddings.length !== texts.length) {
      const count = Array.isArray(answer?.embeddings) ? answer.embeddings.length : 'no'
      const problem = `answered ${texts.length} of up to ${maxBatch} texts with ${count} vectors`
      return { error: new ValidationError('model', problem) }
    }
    return answer
  } catch (error) {
    return { error }
  } finally {
    limit.removeEventListener('abort', stop)
  }
}

/** Runs it again if a lock was in the way: what the model was paid for is worth it. */
async function again<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof LockError) || attempt === WRITE_ATTEMPTS) throw error
    }
  }
}

/** What a run begins with. */
export const NOTHING: RunProgress = {
  ...{ embedded: 0, failed: 0, dead: 0, calls: 0, tokens: 0, costNanos: 0n },
}

/** Gives back what could not be embedded. What no text is to blame for counts as no failure. */
async function concedeBatch(
  tenant: Tenant,
  lease: Lease,
  jobs: readonly ClaimedJob[],
  error: unknown,
  { maxAttempts, signal }: Settings,
): Promise<RunProgress> {
  if (signal?.aborted || isRefusal(error)) {
    await releaseJobs(tenant, lease, 0)
    return NOTHING
  }
  const reason = describeFailure(
    error,
    jobs.map(({ content }) => content),
  )
  const next = isRetryable(error) ? 'retry' : jobs.length > 1 ? 'apart' : 'give_up'
  const failures = jobs.map(({ id }) => ({ id, error: reason }))
  return { ...NOTHING, ...(await failJobs(tenant, { ...lease, maxAttempts, next }, failures)) }
}

async function writeBatch(
  tenant: Tenant,
  lease: Lease,
  jobs: readonly ClaimedJob[],
  { embeddings, tokens: counted, latencyMs }: Answer & { latencyMs: number },
  { space, maxAttempts }: Settings,
): Promise<RunProgress> {
  const vectors: JobVector[] = []
  const failures: JobFailure[] = []
  for (const [at, { id, hash }] of jobs.entries()) {
    const embedding = embeddings[at]
    try {
      checkVector('embedding', embedding, space.dimensions)
      vectors.push({ id, hash, embedding })
    } catch (error) {
      if (!(error instanceof ValidationError)) throw error
      failures.push({ id, error: error.message })
    }
  }
  const embedded = await writeVectors(tenant, lease, vectors)
  const failed = await failJobs(tenant, { ...lease, maxAttempts, next: 'retry' }, failures)
  // Changed meanwhile, or being written: embedded anew, with what they say then.
  await releaseJobs(tenant, lease, BUSY_DELAY_MS)
  const isCounted = Number.isSafeInteger(counted) && Number(counted) >= 0
  const tokens = isCounted ? Number(counted) : jobs.reduce((sum, job) => sum + job.tokens, 0)
  const { costNanos } = await recordUsage(tenant, {
    provider: pricedProvider(space.provider),
    model: space.model,
    operation: 'embedding',
    embeddingTokens: tokens,
    latencyMs,
    idempotencyKey: `embedding ${lease.leaseId}`,
    metadata: { spaceId: space.id, chunks: jobs.length },
    ...(!isCounted && { status: 'estimated' }),
  })
  return { embedded, ...failed, calls: 1, tokens, costNanos }
}

export interface ListEmbeddingJobsOptions {
  spaceId: string
  status?: EmbeddingJob['status']
  /** The chunkId of the last job of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the jobs of a space by chunk, for admins and services: others see none. @throws {ValidationError} */
export async function listEmbeddingJobs(
  { db, organizationId }: Tenant,
  { spaceId, status, after, limit = 50 }: ListEmbeddingJobsOptions,
): Promise<EmbeddingJob[]> {
  checkUuid('spaceId', spaceId)
  if (status !== undefined) checkOneOf('status', status, embeddingJobStatus.enumValues)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, 500)
  return run(
    db
      .select()
      .from(embeddingJobs)
      .where(
        and(
          eq(embeddingJobs.organizationId, organizationId),
          eq(embeddingJobs.spaceId, spaceId),
          status ? eq(embeddingJobs.status, status) : undefined,
          after ? gt(embeddingJobs.chunkId, after) : undefined,
        ),
      )
      .orderBy(asc(embeddingJobs.chunkId))
      .limit(limit),
  )
}

/**
 * Gives the dead jobs of an organization in a space another chance, as if they were new. Returns how many
 * there were; for whom they are not to be seen, none. @throws {ValidationError}
 */
export async function retryDeadJobs(
  { db, organizationId }: Tenant,
  { spaceId }: { spaceId: string },
): Promise<number> {
  checkUuid('spaceId', spaceId)
  const rows = await rowsOf(
    db,
    sql`
      update ${embeddingJobs} set status = 'pending', attempts = 0, last_error = null, due_at = now(),
        updated_at = now()
      where organization_id = ${organizationId} and space_id = ${spaceId} and status = 'dead'
      returning chunk_id`,
  )
  return rows.length
}
