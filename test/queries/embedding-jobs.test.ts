import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { type EmbeddingModel, hashingModel } from '../../src/embedding.ts'
import { NotFoundError, ValidationError } from '../../src/errors.ts'
import { listChunks } from '../../src/queries/chunks.ts'
import { listUsage } from '../../src/queries/costs.ts'
import {
  type EmbedFunction,
  listEmbeddingJobs,
  type RunEmbeddingJobsOptions,
  retryDeadJobs,
  runEmbeddingJobs,
} from '../../src/queries/embedding-jobs.ts'
import { fillSpace } from '../../src/queries/filling.ts'
import { archiveOrganization } from '../../src/queries/identity.ts'
import { indexSource, removeSource } from '../../src/queries/sources.ts'
import { createSpace, spaceCoverage } from '../../src/queries/spaces.ts'
import type { Space } from '../../src/schema/search.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { makeModelPrice } from '../../src/testing/costs.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { makeChunk, makeSpace } from '../../src/testing/search.ts'
import { runChild } from '../support/child.ts'
import { owner, root, test, url } from '../support/own-database.ts'

const DIMENSIONS = 32
const identity = { provider: 'plinth', model: `hashing-${DIMENSIONS}`, dimensions: DIMENSIONS }
const model = hashingModel({ dimensions: DIMENSIONS })
const cut = { chunkSize: 60, chunkOverlap: 0 }

const vectorOf = (text: string) => {
  const vector = new Array<number>(DIMENSIONS).fill(0)
  vector[text.length % DIMENSIONS] = 1
  return vector
}

/** What was asked, call by call, and vectors for it. */
function recorder(answer: (text: string) => number[] = vectorOf) {
  const calls: string[][] = []
  const embed: EmbedFunction = async (texts) => {
    calls.push(texts)
    return { embeddings: texts.map(answer), tokens: texts.length }
  }
  return { calls, embed }
}

const words = (...names: string[]) => names.map((name) => `${name} `.repeat(6).trim()).join('\n\n')

/** A space, an organization, and sources without vectors in it. */
async function setup(db: Database, texts: string[]) {
  const space = await makeSpace(db, identity)
  const scope = await makeScope(db)
  await index(db, scope, space, texts)
  return { space, scope }
}

const index = (db: Database, scope: Scope, { purpose }: Space, texts: string[]) =>
  inTenant(db, scope, async (tenant) => {
    for (const [at, text] of texts.entries()) {
      const source = { sourceType: 'note', sourceId: `n${at}` }
      await indexSource(tenant, { ...source, ...cut, text, purpose })
    }
  })

const jobsOf = (db: Database, { organizationId }: Scope, { id: spaceId }: Space) =>
  asService(db, organizationId, (tenant) => listEmbeddingJobs(tenant, { spaceId }))

/** Time stands still in a test's transaction. */
const makeDue = (db: Database, { organizationId }: Scope) =>
  asService(db, organizationId, (tenant) =>
    tenant.db.execute(sql`update search.embedding_jobs set due_at = now() where due_at > now()`),
  )

const failing = (error: unknown): EmbedFunction => {
  return async () => {
    throw error
  }
}

describe('runEmbeddingJobs', () => {
  test('does what indexing has left, once, and has each call on record', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha', 'beta'), words('gamma')])
    await makeModelPrice(db, {
      ...{ provider: space.provider, model: space.model, unit: 'embedding' },
    })
    expect(await jobsOf(db, scope, space)).toHaveLength(3)
    const { calls, embed } = recorder()

    expect(await runEmbeddingJobs(db, { space, embed })).toEqual({
      ...{ embedded: 3, failed: 0, dead: 0, calls: 1, tokens: 3, costNanos: 3_000n },
    })
    expect(await runEmbeddingJobs(db, { space, embed })).toMatchObject({ calls: 0 })

    expect(calls).toHaveLength(1)
    expect(await jobsOf(db, scope, space)).toEqual([])
    expect(await spaceCoverage(db, space.id)).toEqual({
      ...{ chunks: 3, embedded: 3, missing: 0, pending: 0, dead: 0 },
    })
    const usage = await inTenant(db, scope, (tenant) => listUsage(tenant))
    expect(usage).toMatchObject([{ operation: 'embedding', embeddingTokens: 3, userId: null }])
  })

  test('costs what its provider asks for, by the name that prices have', async ({ db }) => {
    const space = await makeSpace(db, { ...identity, provider: 'someone.embedding' })
    const scope = await makeScope(db)
    await index(db, scope, space, [words('alpha')])
    await makeModelPrice(db, { provider: 'someone', model: space.model, unit: 'embedding' })

    const { costNanos } = await runEmbeddingJobs(db, { space, embed: recorder().embed })

    expect(costNanos).toBe(1_000n)
    const usage = await inTenant(db, scope, (tenant) => listUsage(tenant))
    expect(usage).toMatchObject([{ provider: 'someone', status: 'priced' }])
  })

  test('counts the tokens itself where the model does not say', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha')])

    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ calls: 1, tokens: 9 })

    const [usage] = await inTenant(db, scope, (tenant) => listUsage(tenant))
    expect(usage).toMatchObject({ embeddingTokens: 9, status: 'unpriced' })
  })

  test('copies whose the chunk is, and how it is seen', async ({ db }) => {
    const space = await makeSpace(db, identity)
    const scope = await makeScope(db)
    const ann = await joinScope(db, scope)
    await inTenant(db, ann, (tenant) =>
      makeChunk(tenant, { purpose: space.purpose, visibility: 'private' }),
    )

    expect((await fillSpace(db, { space, model })).embedded).toBe(1)

    const [vector] = await inTenant(db, ann, (tenant) =>
      rowsOf(tenant.db, sql`select owner_id, visibility, source_type from search.embeddings`),
    )
    expect(vector).toEqual({ owner_id: ann.userId, visibility: 'private', source_type: 'note' })
  })

  test('keeps a call within its tokens and its texts', async ({ db }) => {
    const { space } = await setup(db, [words('alpha', 'beta', 'gamma', 'delta', 'omega')])
    const byTokens = recorder()
    const coverage = await spaceCoverage(db, space.id)
    expect(coverage.pending).toBe(5)

    await runEmbeddingJobs(db, { space, embed: byTokens.embed, maxTokens: 18 })

    expect(byTokens.calls.map(({ length }) => length)).toEqual([2, 2, 1])
  })

  test('makes a call of its own of a text that is longer than allowed', async ({ db }) => {
    const { space } = await setup(db, [words('alpha', 'beta')])
    const { calls, embed } = recorder()

    await runEmbeddingJobs(db, { space, embed, maxTokens: 1 })

    expect(calls.map(({ length }) => length)).toEqual([1, 1])
  })

  test('tries again later and later, and gives up in the end', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha')])
    const embed = failing(new Error('the model is busy'))
    const run = () => runEmbeddingJobs(db, { space, embed, maxAttempts: 3 })

    expect(await run()).toMatchObject({ failed: 1, dead: 0, calls: 0 })
    expect(await run()).toMatchObject({ failed: 0 })
    const delays: number[] = []
    for (const dead of [0, 1]) {
      const [job] = await jobsOf(db, scope, space)
      delays.push((job?.dueAt.getTime() ?? 0) - (job?.updatedAt.getTime() ?? 0))
      await makeDue(db, scope)
      expect(await run()).toMatchObject({ failed: 1, dead })
    }

    expect(delays[0]).toBeGreaterThanOrEqual(1_000)
    expect(delays[1]).toBeGreaterThanOrEqual(2_000)
    expect(delays[1]).toBeLessThanOrEqual(4_000)
    const [job] = await jobsOf(db, scope, space)
    expect(job).toMatchObject({
      ...{ status: 'dead', attempts: 3, lastError: 'Error: the model is busy', leaseId: null },
    })
    await makeDue(db, scope)
    expect(await run()).toMatchObject({ failed: 0 })
    expect(await spaceCoverage(db, space.id)).toMatchObject({ missing: 1, dead: 1, pending: 0 })

    const retried = await asService(db, scope.organizationId, (tenant) =>
      retryDeadJobs(tenant, { spaceId: space.id }),
    )
    expect(retried).toBe(1)
    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ embedded: 1 })
  })

  test('does not let one bad text sink the others', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha', 'beta', 'poison', 'gamma', 'delta')])
    const calls: number[] = []
    const embed: EmbedFunction = async (texts) => {
      calls.push(texts.length)
      const bad = texts.find((text) => text.includes('poison'))
      if (bad) throw Object.assign(new Error(`cannot take: ${bad}`), { isRetryable: false })
      return { embeddings: texts.map(vectorOf) }
    }

    const report = await runEmbeddingJobs(db, { space, embed })

    expect(report).toMatchObject({ embedded: 4, dead: 1 })
    expect(calls).toEqual([5, 1, 1, 1, 1, 1])
    const [job] = await jobsOf(db, scope, space)
    expect(job).toMatchObject({ status: 'dead', lastError: 'Error' })
  })

  test('embeds what has failed twice by itself', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha', 'beta', 'gamma')])
    for (let time = 0; time < 2; time += 1) {
      await runEmbeddingJobs(db, { space, embed: failing(new Error('busy')) })
      await makeDue(db, scope)
    }
    const { calls, embed } = recorder()

    await runEmbeddingJobs(db, { space, embed })

    expect(calls.map(({ length }) => length)).toEqual([1, 1, 1])
  })

  test.for<[string, number[]]>([
    ['zero', new Array(DIMENSIONS).fill(0)],
    ['NaN', new Array(DIMENSIONS).fill(Number.NaN)],
    ['of another dimension', [1, 2]],
  ])('a vector that is %s fails its own chunk alone', async ([, bad], { db }) => {
    const { space, scope } = await setup(db, [words('alpha', 'beta', 'gamma')])
    const { embed } = recorder((text) => (text.includes('beta') ? bad : vectorOf(text)))

    expect(await runEmbeddingJobs(db, { space, embed })).toMatchObject({ embedded: 2, failed: 1 })

    const jobs = await jobsOf(db, scope, space)
    expect(jobs).toMatchObject([{ attempts: 1, leaseId: null }])
    expect(jobs[0]?.lastError).toMatch(/^embedding /)
  })

  test('takes another number of vectors than of texts for a failure', async ({ db }) => {
    const { space } = await setup(db, [words('alpha', 'beta')])
    const embed: EmbedFunction = async () => ({ embeddings: [vectorOf('alpha')] })

    expect(await runEmbeddingJobs(db, { space, embed })).toMatchObject({ embedded: 0, failed: 2 })
  })

  test('writes nothing under a lease that another has taken over', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha')])
    const embed: EmbedFunction = async (texts) => {
      await asService(db, scope.organizationId, (tenant) =>
        tenant.db.execute(
          sql`update search.embedding_jobs set lease_id = gen_random_uuid(), leased_until = now() + interval '1 hour'`,
        ),
      )
      return { embeddings: texts.map(vectorOf) }
    }

    expect(await runEmbeddingJobs(db, { space, embed })).toMatchObject({ embedded: 0, calls: 1 })

    expect(await spaceCoverage(db, space.id)).toMatchObject({ embedded: 0, pending: 1 })
    expect(await inTenant(db, scope, (tenant) => listUsage(tenant))).toHaveLength(1)
  })

  test('leaves what is under a live lease, and takes what is under none', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha')])
    const lease = (until: string) =>
      asService(db, scope.organizationId, (tenant) =>
        tenant.db.execute(
          sql`update search.embedding_jobs set lease_id = gen_random_uuid(), leased_until = now() + ${until}::interval`,
        ),
      )
    await lease('1 second')
    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ calls: 0 })

    await lease('-1 second')

    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ embedded: 1 })
  })

  test('writes no vector of a text that has changed or gone meanwhile', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha'), words('beta')])
    let isFirst = true
    const embed: EmbedFunction = async (texts) => {
      if (isFirst) {
        isFirst = false
        await inTenant(db, scope, async (tenant) => {
          await removeSource(tenant, { sourceType: 'note', sourceId: 'n0' })
          await tenant.db.execute(
            sql`update search.chunks set content = 'new', content_hash = sha256('new')`,
          )
        })
      }
      return { embeddings: texts.map(vectorOf) }
    }

    expect(await runEmbeddingJobs(db, { space, embed })).toMatchObject({ embedded: 0, calls: 1 })

    await makeDue(db, scope)
    expect(await runEmbeddingJobs(db, { space, embed })).toMatchObject({ embedded: 1 })
    expect(await spaceCoverage(db, space.id)).toMatchObject({ chunks: 1, embedded: 1, pending: 0 })
  })

  test('asks no model for what has its vector already', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha')])
    await index(db, scope, space, [])
    await inTenant(db, scope, (tenant) =>
      indexSource(tenant, {
        ...{ sourceType: 'note', sourceId: 'n0', ...cut, text: words('alpha') },
        ...{ model, space },
      }),
    )
    const { calls, embed } = recorder()

    await runEmbeddingJobs(db, { space, embed })

    expect(calls).toEqual([])
    expect(await jobsOf(db, scope, space)).toEqual([])
  })

  test('ends where the model refuses the caller, and blames no text', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha', 'beta')])
    const refusal = Object.assign(new Error('bad key'), { statusCode: 401, isRetryable: false })

    await expect(runEmbeddingJobs(db, { space, embed: failing(refusal) })).rejects.toBe(refusal)

    const jobs = await jobsOf(db, scope, space)
    expect(jobs.map(({ attempts, status, leaseId }) => [attempts, status, leaseId])).toEqual([
      [0, 'pending', null],
      [0, 'pending', null],
    ])
    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ embedded: 2 })
  })

  test('gives back what is under way when it is told to end', async ({ db }) => {
    const { space } = await setup(db, [words('alpha')])
    const abort = new AbortController()
    const embed: EmbedFunction = () => {
      abort.abort(new Error('enough'))
      return new Promise(() => {})
    }

    const running = runEmbeddingJobs(db, { space, embed, signal: abort.signal })

    await expect(running).rejects.toThrow('enough')
    expect(await runEmbeddingJobs(db, { space, model })).toMatchObject({ embedded: 1 })
  })

  test('ends at its signal, whatever it is doing', async ({ db }) => {
    const { space } = await setup(db, [words('alpha')])
    const embed: EmbedFunction = () => new Promise(() => {})
    for (let delayMs = 0; delayMs < 20; delayMs += 1) {
      const stop = new AbortController()
      setTimeout(() => stop.abort(new Error('stop')), delayMs)
      const running = runEmbeddingJobs(db, { space, embed, signal: stop.signal })
      await expect(running).rejects.toThrow('stop')
    }
  })

  test('keeps neither keys nor texts of an error', async ({ db }) => {
    const cases: [unknown, string][] = [
      [new TypeError('fetch failed'), 'TypeError: fetch failed'],
      [
        Object.assign(
          new Error('Incorrect key sk-abc123def456 for https://x.example/?k=a1b2c3d4e5'),
          {
            statusCode: 500,
          },
        ),
        'Error 500: Incorrect key … for …',
      ],
      [new Error(`too long: "${words('alpha')}"`), 'Error: too long: …'],
      [new Error(`too long: ${words('alpha')}`), 'Error'],
      ['alpha', 'string'],
      // What no text column takes.
      [new Error('bad \0 byte'), 'Error: bad \ufffd byte'],
      [new Error(`${'x '.repeat(99)}x😀`), `Error: ${'x '.repeat(99)}x\ufffd`],
    ]
    const { space, scope } = await setup(db, [words('alpha')])
    for (const [error, kept] of cases) {
      await runEmbeddingJobs(db, { space, embed: failing(error), maxAttempts: 100 })
      const [job] = await jobsOf(db, scope, space)
      expect(job?.lastError).toBe(kept)
      await makeDue(db, scope)
    }
  })

  test('leaves archived organizations until they are restored, and does only those named', async ({
    db,
  }) => {
    const { space, scope } = await setup(db, [words('alpha')])
    const [archived, other] = [await makeScope(db), await makeScope(db)]
    await index(db, archived, space, [words('beta')])
    await index(db, other, space, [words('gamma')])
    await archiveOrganization(db, archived.organizationId)
    const organizationIds = [scope.organizationId, archived.organizationId]

    expect(await runEmbeddingJobs(db, { space, model, organizationIds })).toMatchObject({
      embedded: 1,
    })
    expect(await spaceCoverage(db, space.id)).toMatchObject({ chunks: 2, embedded: 1 })
    expect((await fillSpace(db, { space, model })).coverage).toMatchObject({ missing: 0 })
  })

  test('is work for services, which members add and do not see', async ({ db }) => {
    const { space, scope } = await setup(db, [])
    const member = await joinScope(db, scope)
    await index(db, member, space, [words('alpha')])

    const spaceId = space.id
    expect(await inTenant(db, member, (tenant) => listEmbeddingJobs(tenant, { spaceId }))).toEqual(
      [],
    )
    const [job] = await inTenant(db, scope, (tenant) => listEmbeddingJobs(tenant, { spaceId }))
    expect(job).toMatchObject({ spaceId, status: 'pending' })
    const after = { spaceId, after: job?.chunkId ?? '', limit: 1 }
    expect(await jobsOf(db, scope, space)).toHaveLength(1)
    expect(await inTenant(db, scope, (tenant) => listEmbeddingJobs(tenant, after))).toEqual([])
  })

  test('refuses what it cannot serve', async ({ db }) => {
    const space = await makeSpace(db, identity)
    const { embed } = recorder()
    const other = hashingModel({ dimensions: 64 })
    const refused: Partial<RunEmbeddingJobsOptions>[] = [
      { embed: undefined },
      { model },
      { embed: undefined, model: other },
      { embed: undefined, model: { ...model, maxEmbeddingsPerCall: 0 } },
      { organizationIds: ['x'] },
      { concurrency: 0 },
      { maxTokens: 0 },
      { maxBatch: 0 },
      { leaseMs: 1 },
      { maxAttempts: 0 },
      { space: { id: 'x' } },
    ]
    for (const options of refused) {
      const running = runEmbeddingJobs(db, { space, embed, ...options })
      await expect(running).rejects.toBeInstanceOf(ValidationError)
    }
    const unknown = runEmbeddingJobs(db, { space: { id: crypto.randomUUID() }, embed })
    await expect(unknown).rejects.toBeInstanceOf(NotFoundError)
  })
})

describe('fillSpace', () => {
  test('finds what has no job, and what is of another text', async ({ db }) => {
    const { space, scope } = await setup(db, [words('alpha', 'beta')])
    await fillSpace(db, { space, model })
    await inTenant(db, scope, async (tenant) => {
      await makeChunk(tenant, { purpose: space.purpose })
      await makeChunk(tenant, { purpose: 'another' })
      const [first] = await listChunks(tenant, { sourceType: 'note', sourceId: 'n0' })
      await tenant.db.execute(
        sql`update search.chunks set content = 'new', content_hash = sha256('new') where id = ${first?.id}`,
      )
    })
    expect(await spaceCoverage(db, space.id)).toMatchObject({ chunks: 3, missing: 2, pending: 0 })
    const progress: unknown[] = []

    const filled = await fillSpace(db, {
      ...{ space, model, maxBatch: 1, onProgress: (step) => progress.push(step) },
    })

    expect(filled).toMatchObject({ embedded: 2, coverage: { chunks: 3, embedded: 3, missing: 0 } })
    expect(progress).toEqual([
      { done: 2, total: 3, dead: 0 },
      { done: 3, total: 3, dead: 0 },
    ])
  })

  test.skipIf(!url)('waits for what is to be tried again, if told to', async () => {
    const { space } = await setup(root, [words('alpha')])
    let calls = 0
    const embed: EmbedFunction = async (texts) => {
      calls += 1
      if (calls === 1) throw new Error('busy')
      return { embeddings: texts.map(vectorOf) }
    }

    const filled = await fillSpace(root, { space, embed, maxWaitMs: 20_000 })

    expect(filled).toMatchObject({ embedded: 1, failed: 1, coverage: { missing: 0 } })
  })
})

describe.skipIf(!url)('several workers', () => {
  const manyTexts = Array.from({ length: 40 }, (_, at) =>
    words(...Array.from({ length: 5 }, (_, word) => `word${at}x${word}`)),
  )

  test('embed nothing twice', async () => {
    const { space, scope } = await setup(root, manyTexts)
    const { calls, embed } = recorder()
    const slow: EmbedFunction = async (texts, options) => {
      await pause(20)
      return embed(texts, options)
    }
    const run = () => runEmbeddingJobs(root, { space, embed: slow, maxBatch: 7, concurrency: 3 })

    const reports = await Promise.all([run(), run()])

    const texts = calls.flat()
    expect(texts).toHaveLength(200)
    expect(new Set(texts).size).toBe(200)
    expect(reports.reduce((sum, { embedded }) => sum + embedded, 0)).toBe(200)
    const usage = await inTenant(root, scope, (tenant) => listUsage(tenant, { limit: 500 }))
    expect(usage).toHaveLength(calls.length)
  })

  test('keep up with writers, and leave no vector of a text that is gone', async () => {
    const { space, scope } = await setup(root, manyTexts.slice(0, 10))
    const stop = new AbortController()
    const working = (async () => {
      while (!stop.signal.aborted) await runEmbeddingJobs(root, { space, model, maxBatch: 3 })
    })()
    for (let round = 0; round < 5; round += 1) {
      await index(root, scope, space, manyTexts.slice(round, round + 10))
      await inTenant(root, scope, (tenant) =>
        removeSource(tenant, { sourceType: 'note', sourceId: `n${round}` }),
      )
    }
    stop.abort()
    await working

    const filled = await fillSpace(root, { space, model, maxWaitMs: 30_000 })
    expect(filled.coverage).toMatchObject({ missing: 0, pending: 0, dead: 0 })
  })

  test('finish what one has left that was killed', async () => {
    const name = { ...identity, model: 'killed', purpose: `killed ${crypto.randomUUID()}` }
    const space = await createSpace(root, name)
    const scope = await makeScope(root)
    await index(root, scope, space, manyTexts)
    const child = runChild('fill-child', [url ?? '', space.id])
    // Two at a time: two batches are done by then, and one at least is with the model.
    await child.said('call 4')
    child.signal('SIGKILL')
    await child.ended()
    // What it has sent is done or undone.
    const busy = sql`select pid from pg_stat_activity
      where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()`
    await expect.poll(() => rowsOf(owner, busy)).toEqual([])
    const before = await spaceCoverage(root, space.id)
    expect(before.embedded).toBeGreaterThan(0)
    expect(before.pending).toBeGreaterThan(0)
    const leased = (await jobsOf(root, scope, space)).filter(({ leaseId }) => leaseId !== null)
    expect(leased.length).toBeGreaterThan(0)

    const { calls, embed } = recorder()
    const filled = await fillSpace(root, { space, embed, maxWaitMs: 30_000 })

    expect(filled.coverage).toEqual({
      ...{ chunks: 200, embedded: 200, missing: 0, pending: 0, dead: 0 },
    })
    expect(calls.flat()).toHaveLength(200 - before.embedded)
    const usage = await inTenant(root, scope, (tenant) => listUsage(tenant, { limit: 500 }))
    const recorded = usage.reduce((sum, { metadata }) => sum + Number(metadata.chunks), 0)
    expect(recorded).toBe(200)
  })
})

test('takes any model of the AI SDK', async ({ db }) => {
  const { space } = await setup(db, [words('alpha')])
  const sdkModel: EmbeddingModel = {
    ...{ specificationVersion: 'v3', provider: space.provider, modelId: space.model },
    maxEmbeddingsPerCall: Promise.resolve(1),
    doEmbed: async ({ values }) => ({ embeddings: values.map(vectorOf), usage: { tokens: 7 } }),
  }

  expect(await runEmbeddingJobs(db, { space, model: sdkModel })).toMatchObject({ tokens: 7 })
})
