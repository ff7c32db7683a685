import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { hashingModel } from '../../src/embedding.ts'
import { NotFoundError, SpaceError, ValidationError } from '../../src/errors.ts'
import { embeddingDrift } from '../../src/queries/drift.ts'
import { runEmbeddingJobs } from '../../src/queries/embedding-jobs.ts'
import { fillSpace } from '../../src/queries/filling.ts'
import { indexSource, removeSource } from '../../src/queries/sources.ts'
import {
  activateSpace,
  createSpace,
  dropSpace,
  findActiveSpace,
  getSpace,
  listSpaces,
  retireSpace,
  rollBackSpace,
  spaceCoverage,
  updateSpace,
} from '../../src/queries/spaces.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import type { Space } from '../../src/schema/search.ts'
import { inTenant, type Scope } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { makeNamespace } from '../../src/testing/search.ts'
import { root, test, url } from '../support/own-database.ts'

const model = hashingModel({ dimensions: 16 })
const cut = { chunkSize: 50, chunkOverlap: 0 }

const make = (db: Database, purpose: string, revision: string) =>
  createSpace(db, {
    ...{ provider: model.provider, model: model.modelId, dimensions: 16, purpose, revision },
    index: 'later',
  })

const index = (db: Database, scope: Scope, purpose: string, sourceId: string, text = sourceId) =>
  inTenant(db, scope, (tenant) =>
    indexSource(tenant, { sourceType: 'note', sourceId, text, purpose, ...cut }),
  )

/** A filled active space, and an empty one beside it. */
async function setup(db: Database) {
  const purpose = crypto.randomUUID()
  const scope = await makeScope(db)
  const old = await make(db, purpose, '1')
  await index(db, scope, purpose, 'alpha')
  await fillSpace(db, { space: old, model })
  return { purpose, scope, old, next: await make(db, purpose, '2') }
}

const statusOf = async (db: Database, { id }: Space) => (await getSpace(db, id)).status

const partitionOf = (db: Database, { id }: Space) =>
  rowsOf<{ name: string }>(
    db,
    sql`select indexrelid::regclass::text as name from pg_index
      where indrelid = to_regclass(${`partitions.embeddings_${id.replaceAll('-', '')}`}) order by 1`,
  )

describe('createSpace', () => {
  test('makes the HNSW index at once, or leaves it for later', async ({ db }) => {
    const purpose = crypto.randomUUID()
    const options = { ...{ provider: 'x', model: 'y', dimensions: 4 }, purpose }
    const [now, later] = [
      await createSpace(db, options),
      await createSpace(db, { ...options, revision: '2', index: 'later' }),
    ]

    const hasIndex = async (space: Space) =>
      (await partitionOf(db, space)).some(({ name }) => name.endsWith('_hnsw'))
    expect([await hasIndex(now), await hasIndex(later)]).toEqual([true, false])
    expect([now.status, later.status]).toEqual(['active', 'building'])
    expect([now.activatedAt, later.activatedAt]).toEqual([expect.any(Date), null])
    const refused = createSpace(db, { ...options, index: 'never' as 'now' })
    await expect(refused).rejects.toBeInstanceOf(ValidationError)
  })
})

describe('activateSpace', () => {
  test('refuses a space that lacks a vector, unless forced', async ({ db }) => {
    const { old, next } = await setup(db)

    const activating = db.transaction((tx) => activateSpace(tx, next.id))
    await expect(activating).rejects.toMatchObject({ name: 'SpaceError', reason: 'not_covered' })
    expect([await statusOf(db, old), await statusOf(db, next)]).toEqual(['active', 'building'])

    const active = await activateSpace(db, next.id, { force: true })
    expect(active).toMatchObject({ status: 'active' })
    expect([await statusOf(db, old), await statusOf(db, next)]).toEqual(['retired', 'active'])
    // What is active already is not asked for anything.
    expect(await activateSpace(db, next.id)).toEqual(active)
  })

  test('makes it the one that is found, once it is full', async ({ db }) => {
    const { purpose, old, next } = await setup(db)
    await fillSpace(db, { space: next, model })

    await activateSpace(db, next.id)
    expect((await findActiveSpace(db, purpose))?.id).toBe(next.id)
    const { activatedAt } = await activateSpace(db, next.id)

    expect(activatedAt).toEqual((await getSpace(db, next.id)).activatedAt)
    expect(await statusOf(db, old)).toBe('retired')
  })

  test('refuses one that is filled with what a text was', async ({ db }) => {
    const { scope, next } = await setup(db)
    await fillSpace(db, { space: next, model })
    await inTenant(db, scope, (tenant) =>
      tenant.db.execute(sql`update search.chunks set content = 'b', content_hash = sha256('b')`),
    )

    await expect(activateSpace(db, next.id)).rejects.toBeInstanceOf(SpaceError)
  })

  test('leaves other purposes alone', async ({ db }) => {
    const [text, image] = [await setup(db), await setup(db)]
    await fillSpace(db, { space: text.next, model })

    await activateSpace(db, text.next.id)

    expect(await statusOf(db, image.old)).toBe('active')
    expect(await spaceCoverage(db, image.next.id)).toMatchObject({ chunks: 1, missing: 1 })
  })

  test('knows no unknown space', async ({ db }) => {
    const unknown = db.transaction((tx) => activateSpace(tx, crypto.randomUUID()))
    await expect(unknown).rejects.toBeInstanceOf(NotFoundError)
    await expect(activateSpace(db, 'x')).rejects.toBeInstanceOf(ValidationError)
  })

  test.skipIf(!url)('leaves one active of two that are activated at once', async () => {
    const { purpose, next } = await setup(root)
    const third = await make(root, purpose, '3')
    const force = { force: true }

    await Promise.all([activateSpace(root, next.id, force), activateSpace(root, third.id, force)])

    const active = (await listSpaces(root, { purpose })).filter(({ status }) => status === 'active')
    expect(active).toHaveLength(1)
  })
})

describe('rollBackSpace', () => {
  test('leads back step by step', async ({ db }) => {
    const { purpose, old, next } = await setup(db)
    const third = await make(db, purpose, '3')
    const force = { force: true }
    await activateSpace(db, next.id, force)
    await activateSpace(db, third.id, force)

    expect((await rollBackSpace(db, purpose)).id).toBe(next.id)
    expect(await statusOf(db, third)).toBe('retired')
    expect((await rollBackSpace(db, purpose)).id).toBe(old.id)

    const further = db.transaction((tx) => rollBackSpace(tx, purpose))
    await expect(further).rejects.toMatchObject({ reason: 'no_predecessor' })
    expect((await findActiveSpace(db, purpose))?.id).toBe(old.id)
  })

  test('lacks what was indexed since, until that is filled in', async ({ db }) => {
    const { purpose, scope, old, next } = await setup(db)
    await fillSpace(db, { space: next, model })
    await activateSpace(db, next.id)
    await index(db, scope, purpose, 'beta')

    await rollBackSpace(db, purpose)

    expect(await spaceCoverage(db, old.id)).toMatchObject({ missing: 1, pending: 0 })
    expect((await fillSpace(db, { space: old, model })).coverage).toMatchObject({ missing: 0 })
  })
})

describe('retireSpace', () => {
  test('ends the filling, and deletes its jobs', async ({ db }) => {
    const { purpose, scope, next } = await setup(db)
    await index(db, scope, purpose, 'beta')
    expect(await spaceCoverage(db, next.id)).toMatchObject({ pending: 1 })

    await retireSpace(db, next.id)
    await retireSpace(db, next.id)
    await index(db, scope, purpose, 'gamma')

    expect(await statusOf(db, next)).toBe('retired')
    expect(await spaceCoverage(db, next.id)).toMatchObject({ pending: 0, missing: 3 })
    const unknown = db.transaction((tx) => retireSpace(tx, crypto.randomUUID()))
    await expect(unknown).rejects.toBeInstanceOf(NotFoundError)
  })
})

// Committed: what a transaction has locked, another test would wait for, and it for them.
describe('dropSpace', () => {
  test('leaves nothing of it', async () => {
    const { purpose, scope, old, next } = await setup(root)
    await fillSpace(root, { space: next, model })
    await activateSpace(root, next.id)
    await index(root, scope, purpose, 'beta')

    await dropSpace(root, old.id)

    await expect(getSpace(root, old.id)).rejects.toBeInstanceOf(NotFoundError)
    expect(await partitionOf(root, old)).toEqual([])
    const left = await inTenant(root, scope, (tenant) =>
      rowsOf<{ id: string }>(
        tenant.db,
        sql`select space_id as id from search.embeddings union all select space_id from search.embedding_jobs`,
      ),
    )
    expect(new Set(left.map(({ id }) => id))).toEqual(new Set([next.id]))
    await expect(root.transaction((tx) => dropSpace(tx, old.id))).rejects.toBeInstanceOf(
      NotFoundError,
    )
  })

  test('refuses the active one, and one with vectors elsewhere', async () => {
    const { old, next } = await setup(root)
    await makeNamespace(root, { spaceId: next.id })
    const refused = (space: Space, reason: string) =>
      expect(root.transaction((tx) => dropSpace(tx, space.id))).rejects.toMatchObject({ reason })

    await refused(old, 'active')
    await refused(next, 'in_use')
    await retireSpace(root, old.id)
    await dropSpace(root, old.id)
    expect(await statusOf(root, next)).toBe('building')
  })

  test.skipIf(!url)('waits for who searches, shortly and again', async () => {
    const { next } = await setup(root)
    let isDropped = false
    let dropping = Promise.resolve()
    await root.transaction(async (tx) => {
      await rowsOf(tx, sql`select count(*) from search.spaces`)
      await inTenant(tx, await makeScope(tx), (tenant) =>
        rowsOf(tenant.db, sql`select count(*) from search.embeddings`),
      )
      dropping = dropSpace(root, next.id).then(() => {
        isDropped = true
      })
      await new Promise((resolve) => setTimeout(resolve, 900))
      expect(isDropped).toBe(false)
    })
    await dropping
    expect(isDropped).toBe(true)
  })
})

/** What may be done, in any order. */
type Step =
  | { kind: 'index'; source: number; words: string[] }
  | { kind: 'remove'; source: number }
  | { kind: 'inline'; source: number; words: string[] }
  | { kind: 'activate' | 'run' | 'retire' | 'drop'; space: number }
  | { kind: 'create' | 'roll back' }

const word = fc.constantFrom('alpha', 'beta', 'gamma', 'delta')
const source = fc.nat({ max: 2 })
const words = fc.array(word, { minLength: 1, maxLength: 3 })
const space = fc.nat({ max: 3 })
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('index' as const), source, words }),
  fc.record({ kind: fc.constant('inline' as const), source, words }),
  fc.record({ kind: fc.constant('remove' as const), source }),
  fc.record({ kind: fc.constantFrom('activate', 'run', 'retire', 'drop'), space }),
  fc.record({ kind: fc.constantFrom('create', 'roll back') }),
)

async function take(db: Database, scope: Scope, purpose: string, step: Step, at: number) {
  const spaces = await listSpaces(db, { purpose })
  const which = 'space' in step ? spaces[step.space % Math.max(spaces.length, 1)] : undefined
  if ('source' in step) {
    const id = { sourceType: 'note', sourceId: `n${step.source}` }
    const [first] = spaces
    const inline = step.kind === 'inline' && first ? { model, space: first } : {}
    await inTenant(db, scope, async (tenant) => {
      if (step.kind === 'remove') await removeSource(tenant, id)
      else {
        const text = step.words.map((one) => `${one} `.repeat(7).trim()).join('\n\n')
        await indexSource(tenant, { ...id, ...cut, text, purpose, ...inline })
      }
    })
  } else if (step.kind === 'create') await make(db, purpose, `${at}`)
  else if (step.kind === 'roll back') await rollBackSpace(db, purpose)
  else if (which && step.kind === 'activate') await activateSpace(db, which.id)
  else if (which && step.kind === 'run') await runEmbeddingJobs(db, { space: which, model })
  else if (which && step.kind === 'retire') await retireSpace(db, which.id)
  else if (which && step.kind === 'drop') await dropSpace(db, which.id)
}

test('no order of anything leaves an orphan, and a fill covers exactly what is there', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 12 }), (steps) =>
      rollback(root, async (db) => {
        const purpose = crypto.randomUUID()
        const scope = await makeScope(db)
        await make(db, purpose, 'first')
        for (const [at, one] of steps.entries()) {
          await db
            .transaction((tx) => take(tx, scope, purpose, one, at))
            .catch((error) => {
              if (!(error instanceof SpaceError)) throw error
            })
          const spaces = await listSpaces(db, { purpose })
          expect(spaces.filter(({ status }) => status === 'active').length).toBeLessThan(2)
          for (const { id, status } of spaces) {
            const { missing, ...drift } = await embeddingDrift(db, { spaceId: id })
            for (const { count } of Object.values(drift)) expect(count).toBe(0)
            // What is filled or searched has a job for all that it lacks, but what came before it.
            if (status === 'active' && id === spaces[0]?.id && steps.every(isPlain)) {
              expect(missing.count).toBe(0)
            }
          }
        }
        const [{ chunks = 0 } = {}] = await inTenant(db, scope, (tenant) =>
          rowsOf<{ chunks: number }>(
            tenant.db,
            sql`select count(*)::integer as chunks from search.chunks where purpose = ${purpose}`,
          ),
        )
        for (const one of await listSpaces(db, { purpose })) {
          const { coverage } = await fillSpace(db, { space: one, model })
          expect(coverage).toEqual({ chunks, embedded: chunks, missing: 0, pending: 0, dead: 0 })
        }
      }),
    ),
    { numRuns: 25 },
  )
}, 240_000)

/** A step that leaves the first space the active one. */
const isPlain = ({ kind }: Step) => ['index', 'inline', 'remove', 'run', 'create'].includes(kind)

test('up to how many rows a space is scanned is said when it is made, and changed', async ({
  db,
}) => {
  const identity = { provider: 'test', model: 'm', dimensions: 8, purpose: uuidV7() }
  const { id, exactRows } = await createSpace(db, { ...identity, exactRows: 100 })
  expect(exactRows).toBe(100)
  expect(await updateSpace(db, id, { exactRows: 0 })).toMatchObject({ id, exactRows: 0 })
  await expect(updateSpace(db, uuidV7(), { exactRows: 1 })).rejects.toBeInstanceOf(NotFoundError)
  for (const rows of [-1, 1.5, 1e9]) {
    await expect(updateSpace(db, id, { exactRows: rows })).rejects.toBeInstanceOf(ValidationError)
  }
})
