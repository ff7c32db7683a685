import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { checkUuid } from '../validation.ts'
import { enqueueMissing } from './job-queue.ts'

/** Of each kind, so many are named. */
const MAX_SAMPLES = 20

export interface DriftedChunk {
  organizationId: string
  chunkId: string
}

export interface Drift {
  count: number
  /** The first 20, by organization and chunk. */
  samples: DriftedChunk[]
}

/** What may be wrong with the vectors of a space. */
export interface EmbeddingDrift {
  /** Chunks of the space's purpose without a vector, that no pending job will make. */
  missing: Drift
  /** Vectors of another text than the chunk has now, that no pending job will replace. */
  stale: Drift
  /** Vectors of no chunk, or of one of another purpose. */
  orphaned: Drift
  /** Whose owner, visibility or source type are not the chunk's: seen by others than the chunk is. */
  misfiled: Drift
  wrongDimension: Drift
  /** Near to nothing. */
  zero: Drift
}

/**
 * Finds what is wrong with the vectors of a space, in all organizations. Reads all of them, and all chunks
 * of its purpose.
 *
 * @throws {NotFoundError} for an unknown space. @throws {ValidationError}
 */
export async function embeddingDrift(
  db: Database,
  { spaceId }: { spaceId: string },
): Promise<EmbeddingDrift> {
  checkUuid('spaceId', spaceId)
  const rows = await rowsOf<{ kind: string; total: string; samples: DriftedChunk[] }>(
    db,
    sql`select kind, total, samples from search.embedding_drift(${spaceId}, ${MAX_SAMPLES})`,
  )
  const of = (kind: keyof EmbeddingDrift): Drift => {
    const row = rows.find((one) => one.kind === kind)
    return { count: Number(row?.total ?? 0), samples: row?.samples ?? [] }
  }
  return {
    missing: of('missing'),
    stale: of('stale'),
    orphaned: of('orphaned'),
    misfiled: of('misfiled'),
    wrongDimension: of('wrongDimension'),
    zero: of('zero'),
  }
}

export interface RepairedEmbeddings {
  /** Vectors that were orphaned, zero, or of the wrong dimension. */
  deleted: number
  /** Vectors that have their chunk's owner, visibility and source type again. */
  refiled: number
  /** Dead jobs that get another chance. */
  revived: number
  /** Jobs added for what is missing or stale; see `runEmbeddingJobs`. */
  enqueued: number
}

/**
 * Mends what `embeddingDrift` finds, but for the vectors themselves, for which it adds jobs. A stale vector
 * stays until its job is done. Returns what it did; called again, it finds nothing to do.
 *
 * @throws {NotFoundError} for an unknown space. @throws {ValidationError}
 */
export async function repairEmbeddings(
  db: Database,
  { spaceId }: { spaceId: string },
): Promise<RepairedEmbeddings> {
  checkUuid('spaceId', spaceId)
  const { deleted, refiled, revived } = only(
    await rowsOf<Record<'deleted' | 'refiled' | 'revived', string>>(
      db,
      sql`select deleted, refiled, revived from search.repair_embeddings(${spaceId})`,
    ),
  )
  return {
    deleted: Number(deleted),
    refiled: Number(refiled),
    revived: Number(revived),
    enqueued: await enqueueMissing(db, { spaceId }),
  }
}
