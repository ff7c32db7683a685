import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { StoreError, ValidationError } from '../../src/errors.ts'
import { archiveOrganization } from '../../src/queries/identity.ts'
import {
  createNamespace,
  getNamespace,
  listNamespaces,
  namespaceDrift,
  removeNamespace,
} from '../../src/queries/namespaces.ts'
import { claimPlacements } from '../../src/queries/placements.ts'
import type { Namespace, Space } from '../../src/schema/search.ts'
import { reconcileNamespace } from '../../src/stores/reconcile.ts'
import { syncNamespace } from '../../src/stores/sync.ts'
import type { VectorStore } from '../../src/stores/vector-store.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { makeScope, unitVector } from '../../src/testing/factories.ts'
import { makeEmbedding, makeSpace } from '../../src/testing/search.ts'
import { adminUrl, root, test } from '../support/database.ts'
import { freshName, makeNamespaceIn, STORES } from '../support/stores.ts'

const fill = (db: Database, scope: Scope, space: Space, count: number) =>
  inTenant(db, scope, async (tenant) => {
    const ids: string[] = []
    for (let at = 0; at < count; at += 1) {
      const embedding = unitVector(at, space.dimensions)
      ids.push((await makeEmbedding(tenant, { space, embedding })).chunkId)
    }
    return ids
  })

const inScope = (db: Database, scope: Scope, query: ReturnType<typeof sql>) =>
  inTenant(db, scope, (tenant) => rowsOf(tenant.db, query))

const statuses = (db: Database, { organizationId }: Scope, namespace: Pick<Namespace, 'id'>) =>
  asService(db, organizationId, (tenant) =>
    rowsOf<{ chunkId: string; status: string; attempts: number; isDue: boolean }>(
      tenant.db,
      sql`select chunk_id as "chunkId", status, attempts, due_at <= now() as "isDue"
        from search.placements where namespace_id = ${namespace.id} order by chunk_id`,
    ),
  )

const makeDue = (db: Database, scope: Scope) =>
  inScope(db, scope, sql`update search.placements set due_at = now(), leased_until = null`)

describe.each(Object.entries(STORES).filter(([kind]) => !kind.endsWith('index')))(
  'in %s',
  (_, makeStore) => {
    const opened = makeStore()
    const prepare = async (db: Database, count = 5) => {
      const [store, space] = [await opened, await makeSpace(db)]
      const namespace = await makeNamespaceIn(db, { space, store })
      const scopes = [await makeScope(db), await makeScope(db)]
      const ids: string[][] = []
      for (const scope of scopes) ids.push(await fill(db, scope, space, count))
      const [scope, other] = scopes as [Scope, Scope]
      const [own, others] = ids as [string[], string[]]
      return { store, space, namespace, scope, other, own, others }
    }
    const remote = async (store: VectorStore, namespace: Namespace) =>
      (await store.list(namespace.name, { limit: 1_000 })).map(({ id }) => id).sort()

    test('sends all, then what was added, changed and deleted, and nothing else', async ({
      db,
    }) => {
      const { store, space, namespace, scope, own, others } = await prepare(db)
      const sync = () => syncNamespace(db, { namespace: namespace.id, store, batchSize: 2 })

      expect(await sync()).toMatchObject({ organizations: 2, upserted: 10, deleted: 0, failed: 0 })
      expect(await remote(store, namespace)).toEqual([...own, ...others].sort())
      expect(await sync()).toMatchObject({ upserted: 0, deleted: 0 })

      const [added] = await fill(db, scope, space, 1)
      const vector = JSON.stringify(unitVector(99, space.dimensions))
      await inScope(
        db,
        scope,
        sql`update search.embeddings set embedding = ${vector}::public.halfvec where chunk_id = ${own[0]}`,
      )
      await inScope(db, scope, sql`delete from search.chunks where id = ${own[1]}`)
      expect(await namespaceDrift(db, namespace.id)).toMatchObject({
        ...{ local: 10, placed: 10, missing: 1, stale: 1 },
      })
      expect(await sync()).toMatchObject({ upserted: 2, deleted: 1 })
      const now = [...own.filter((id) => id !== own[1]), ...others, added].sort()
      expect(await remote(store, namespace)).toEqual(now)
      const { organizationId } = scope
      const [nearest] = await store.query(namespace.name, {
        ...{ organizationId, vector: unitVector(99, space.dimensions), limit: 1 },
      })
      expect(nearest).toMatchObject({ id: own[0], distance: expect.closeTo(0, 3) })
      expect(await statuses(db, scope, namespace)).toHaveLength(5)
    })

    test('goes on where it was interrupted', async ({ db }) => {
      const { store, namespace, scope } = await prepare(db)
      const controller = new AbortController()
      const options = { namespace: namespace.id, store, batchSize: 2 }
      const interrupted = syncNamespace(db, {
        ...options,
        signal: controller.signal,
        onProgress: () => controller.abort(new Error('enough')),
      })
      await expect(interrupted).rejects.toThrow('enough')
      expect(await remote(store, namespace)).toHaveLength(2)

      // Whoever died with a batch in hand: it is nobody else's until the lease has ended.
      const { organizationId } = scope
      await asService(db, organizationId, (tenant) =>
        claimPlacements(tenant, { namespace, limit: 1, leaseMs: 60_000 }),
      )
      expect(await syncNamespace(db, options)).toMatchObject({ upserted: 7 })
      await inScope(db, scope, sql`update search.placements set leased_until = now()`)
      expect(await syncNamespace(db, options)).toMatchObject({ upserted: 1 })
      expect(await reconcileNamespace(db, options)).toMatchObject({ isInSync: true, remote: 10 })
    })

    test('has a vector that is refused cost no other, and gives it up in the end', async ({
      db,
    }) => {
      const { store, namespace, scope, own } = await prepare(db)
      let calls = 0
      const picky: VectorStore = {
        ...store,
        upsert: async (name, records, call) => {
          calls += 1
          if (records.some(({ id }) => id === own[2]))
            throw new Error(`too odd: \0${'x'.repeat(490)}😀`)
          await store.upsert(name, records, call)
        },
      }
      const options = { namespace: namespace.id, store: picky, maxAttempts: 2 }

      expect(await syncNamespace(db, options)).toMatchObject({ upserted: 9, failed: 1, dead: 0 })
      const [failed] = (await statuses(db, scope, namespace)).filter(({ attempts }) => attempts > 0)
      expect(failed).toMatchObject({
        chunkId: own[2],
        status: 'pending',
        attempts: 1,
        isDue: false,
      })
      calls = 0
      expect(await syncNamespace(db, options)).toMatchObject({ upserted: 0, failed: 0 })
      expect(calls).toBe(0)
      await makeDue(db, scope)
      expect(await syncNamespace(db, options)).toMatchObject({ dead: 1 })
      await makeDue(db, scope)
      expect(await syncNamespace(db, options)).toMatchObject({ failed: 0, dead: 0, upserted: 0 })

      const reconciling = { namespace: namespace.id, store }
      expect(await reconcileNamespace(db, reconciling)).toMatchObject({ dead: 1, isInSync: false })
      await reconcileNamespace(db, { ...reconciling, repair: true })
      expect(await syncNamespace(db, reconciling)).toMatchObject({ upserted: 1 })
      expect(await reconcileNamespace(db, reconciling)).toMatchObject({ isInSync: true })
    })

    test('ends while the store is away, at no cost', async ({ db }) => {
      const { store, namespace, scope } = await prepare(db)
      const away: VectorStore = {
        ...store,
        upsert: async () => {
          throw new StoreError(store.name, 'unavailable', 'away')
        },
      }

      const result = await syncNamespace(db, { namespace: namespace.id, store: away })
      expect(result).toMatchObject({ upserted: 0, failed: 0, stopped: { kind: 'unavailable' } })
      const found = await statuses(db, scope, namespace)
      expect(found.every(({ status, attempts }) => status === 'pending' && attempts === 0)).toBe(
        true,
      )
      expect(await syncNamespace(db, { namespace: namespace.id, store })).toMatchObject({
        upserted: 10,
      })
    })

    test('finds and repairs what was lost, changed and left over in the store', async ({ db }) => {
      const { store, space, namespace, scope, own } = await prepare(db)
      const options = { namespace: namespace.id, store }
      await syncNamespace(db, options)
      expect(await reconcileNamespace(db, options)).toMatchObject({
        ...{ local: 10, placed: 10, remote: 10, sampled: 10, mismatched: 0 },
        ...{ isFull: false, isInSync: true },
      })
      expect((await getNamespace(db, namespace.id)).vectors).toBe(10)
      expect((await getNamespace(db, namespace.id)).verifiedAt).toBeInstanceOf(Date)

      const { organizationId } = scope
      const vector = unitVector(50, space.dimensions)
      const [known, unknown] = [crypto.randomUUID(), crypto.randomUUID()]
      const [first = '', second = ''] = own
      await store.delete(namespace.name, [{ organizationId, id: first }])
      await store.upsert(namespace.name, [
        { organizationId, id: second, vector, hash: 'another' },
        { organizationId, id: known, vector, hash: 'x' },
        { organizationId: crypto.randomUUID(), id: unknown, vector, hash: 'x' },
      ])
      const report = await reconcileNamespace(db, { ...options, repair: true })
      expect(report).toMatchObject({ isFull: true, extra: 2, isInSync: false, mismatched: 2 })
      expect(await remote(store, namespace)).not.toContain(unknown)
      expect(await syncNamespace(db, options)).toMatchObject({ upserted: 2, deleted: 1 })
      expect(await reconcileNamespace(db, { ...options, full: true })).toMatchObject({
        ...{ isFull: true, lost: 0, extra: 0, isInSync: true },
      })
    })

    test('finds by a sample that numbers are others, although hash and count are right', async ({
      db,
    }) => {
      const { store, space, namespace, scope, own } = await prepare(db)
      const options = { namespace: namespace.id, store }
      await syncNamespace(db, options)
      const { organizationId } = scope
      const [stored] = await store.fetch(namespace.name, [{ organizationId, id: own[0] ?? '' }])
      const vector = unitVector(7_777, space.dimensions)
      await store.upsert(namespace.name, [
        { organizationId, id: own[0] ?? '', hash: stored?.hash ?? '', vector },
      ])

      expect(await reconcileNamespace(db, { ...options, sample: 0 })).toMatchObject({
        mismatched: 0,
      })
      expect(await reconcileNamespace(db, { ...options, repair: true })).toMatchObject({
        mismatched: 1,
      })
      await syncNamespace(db, options)
      expect(await reconcileNamespace(db, options)).toMatchObject({ isInSync: true })
    })

    test('leaves an archived organization as it is', async ({ db }) => {
      const { store, namespace, other } = await prepare(db)
      await archiveOrganization(db, other.organizationId)

      const options = { namespace: namespace.id, store }
      expect(await syncNamespace(db, options)).toMatchObject({ organizations: 1, upserted: 5 })
      expect(await reconcileNamespace(db, options)).toMatchObject({ missing: 0, isInSync: true })
    })
  },
)

describe('namespaces', () => {
  const lancedb = () => (STORES.lancedb as () => Promise<VectorStore>)()

  test('are made once, listed and removed', async ({ db }) => {
    const [space, another] = [await makeSpace(db), await makeSpace(db)]
    const name = freshName()
    const options = { spaceId: space.id, provider: 'test', name }
    const made = await createNamespace(db, options)

    expect(await createNamespace(db, options)).toEqual(made)
    await expect(createNamespace(db, { ...options, spaceId: another.id })).rejects.toMatchObject({
      ...{ name: 'ConstraintError', constraint: 'namespaces_name_key' },
    })
    expect(await listNamespaces(db, { spaceId: space.id })).toEqual([made])
    expect(await listNamespaces(db, { spaceId: space.id, after: made.id })).toEqual([])
    await removeNamespace(db, made.id)
    await removeNamespace(db, made.id)
    await expect(getNamespace(db, made.id)).rejects.toMatchObject({ entity: 'namespace' })
  })

  test.for(['', 'A', 'a b', '-a', '"', 'x'.repeat(51)])(
    'are not called %j',
    async (name, { db }) => {
      const space = await makeSpace(db)
      await expect(
        createNamespace(db, { spaceId: space.id, provider: 'test', name }),
      ).rejects.toThrow(ValidationError)
    },
  )

  test('are synchronized by their own store only', async ({ db }) => {
    const [store, space] = [await lancedb(), await makeSpace(db)]
    const namespace = await makeNamespaceIn(db, { space, store: { name: 'another' } })

    await expect(syncNamespace(db, { namespace: namespace.id, store })).rejects.toMatchObject({
      ...{ name: 'ValidationError', argument: 'store' },
    })
  })
})

describe.skipIf(!adminUrl)('several at once', () => {
  test('send each vector once', async () => {
    const store = await (STORES.lancedb as () => Promise<VectorStore>)()
    const space = await makeSpace(root)
    const namespace = await makeNamespaceIn(root, { space, store })
    await fill(root, await makeScope(root), space, 40)
    const sent: string[] = []
    const watched: VectorStore = {
      ...store,
      upsert: async (name, records, call) => {
        sent.push(...records.map(({ id }) => id))
        await store.upsert(name, records, call)
      },
    }
    const run = () => syncNamespace(root, { namespace: namespace.id, store: watched, batchSize: 3 })

    const results = await Promise.all([run(), run(), run()])

    expect(results.reduce((sum, { upserted }) => sum + upserted, 0)).toBe(40)
    expect(results.filter(({ upserted }) => upserted > 0).length).toBeGreaterThan(1)
    expect([sent.length, new Set(sent).size]).toEqual([40, 40])
    expect(await reconcileNamespace(root, { namespace: namespace.id, store })).toMatchObject({
      isInSync: true,
    })
  })
})
