import { setTimeout as pause } from 'node:timers/promises'
import type { Database } from '../database.ts'
import { checkInteger } from '../validation.ts'
import {
  addTo,
  checkRun,
  NOTHING,
  type RunEmbeddingJobsOptions,
  type RunProgress,
  runEmbeddingJobs,
} from './embedding-jobs.ts'
import { enqueueMissing } from './job-queue.ts'
import { type SpaceCoverage, spaceCoverage } from './spaces.ts'

/** Of jobs that are tried again, how often is looked whether they are due. */
const POLL_MS = 1_000

/** Between two passes of a fill, writers may have added what no pass has seen. */
const MAX_PASSES = 10

export interface FillSpaceOptions extends RunEmbeddingJobsOptions {
  /** How long those that failed are waited for, to be tried again, in milliseconds; not at all unless said. */
  maxWaitMs?: number
}

export interface FillProgress {
  /** Chunks with their vector in the space, of all that belong there. */
  done: number
  total: number
  /** Jobs given up in this run. */
  dead: number
}

export interface FilledSpace extends RunProgress {
  /** As it is at the end, of all organizations. */
  coverage: SpaceCoverage
}

/**
 * Fills a space: adds a job for each chunk without a current vector in it, and does the jobs until nothing
 * is due. Interrupted anywhere, and called again, it goes on with what is missing.
 *
 * @throws as `runEmbeddingJobs`.
 */
export async function fillSpace(
  db: Database,
  options: FillSpaceOptions & { onProgress?: (progress: FillProgress) => void },
): Promise<FilledSpace> {
  const { maxWaitMs = 0, onProgress, organizationIds, signal, ...rest } = options
  checkInteger('maxWaitMs', maxWaitMs, { max: 86_400_000 })
  const { spaceId } = await checkRun(db, options)
  const sum: RunProgress = { ...NOTHING }
  const { chunks: total, embedded: before } = await coverageOf(db, spaceId, organizationIds)
  const runOnce = async () => {
    const { embedded, dead } = sum
    const report = await runEmbeddingJobs(db, {
      ...{ ...rest, organizationIds, signal },
      onProgress: (progress) => {
        const done = before + embedded + progress.embedded
        onProgress?.({ done, total: Math.max(total, done), dead: dead + progress.dead })
      },
    })
    addTo(sum, report)
  }
  const deadline = performance.now() + maxWaitMs
  for (let pass = 0; pass < MAX_PASSES; pass += 1) {
    const enqueued = await enqueueMissing(db, { spaceId, organizationIds, signal })
    if (pass > 0 && enqueued === 0) break
    await runOnce()
    while (
      performance.now() < deadline &&
      (await coverageOf(db, spaceId, organizationIds)).pending > 0
    ) {
      await pause(POLL_MS, undefined, { signal })
      await runOnce()
    }
  }
  return { ...sum, coverage: await spaceCoverage(db, spaceId) }
}

/** The coverage of some organizations together, or of all. */
async function coverageOf(
  db: Database,
  spaceId: string,
  organizationIds: readonly string[] | undefined,
): Promise<SpaceCoverage> {
  if (!organizationIds) return spaceCoverage(db, spaceId)
  const sum: SpaceCoverage = { chunks: 0, embedded: 0, missing: 0, pending: 0, dead: 0 }
  for (const organizationId of organizationIds) {
    const one = await spaceCoverage(db, spaceId, { organizationId })
    for (const key of ['chunks', 'embedded', 'missing', 'pending', 'dead'] as const) {
      sum[key] += one[key]
    }
  }
  return sum
}
