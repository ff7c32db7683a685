import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../src/database.ts'
import { ForbiddenError, TransactionError, ValidationError } from '../src/errors.ts'
import { listChunks } from '../src/queries/chunks.ts'
import { listMembers } from '../src/queries/members.ts'
import { uuidV7 } from '../src/schema/columns.ts'
import { chunks } from '../src/schema/search.ts'
import { asService, inTenant, readInTenant, type Tenant } from '../src/tenant.ts'
import { joinScope, makeScope } from '../src/testing/factories.ts'
import { makeChunk } from '../src/testing/search.ts'
import { root, test, url } from './support/database.ts'

const note = { sourceType: 'note', sourceId: 'n1' }
const list = (tenant: Tenant) => listChunks(tenant, note)
const currentUser = sql<string>`select current_user::text as name,
  current_setting('plinth.organization_id', true) as organization`
const oneOf = async (db: Database) => (await rowsOf<{ name: string }>(db, currentUser))[0]

/** In a savepoint, so that a refusal does not take the test's own transaction with it. */
const trying = <T>(db: Database, work: (tx: Database) => Promise<T>) => db.transaction(work)

describe('a scope', () => {
  test("hides another organization's rows, and protects them", async ({ db }) => {
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    await inTenant(db, theirs, (tenant) => makeChunk(tenant, { ...note, content: 'secret' }))

    // Without the queries, and so without their predicate: row level security alone.
    await inTenant(db, mine, async ({ db }) => {
      expect(await db.select().from(chunks)).toEqual([])
      expect(await db.update(chunks).set({ content: 'x' }).returning()).toEqual([])
      expect(await db.delete(chunks).returning()).toEqual([])
    })
    const intruding = trying(db, (tx) =>
      inTenant(tx, mine, (tenant) =>
        makeChunk({ ...tenant, organizationId: theirs.organizationId }, { content: 'planted' }),
      ),
    )

    await expect(intruding).rejects.toBeInstanceOf(ForbiddenError)
    expect(await inTenant(db, theirs, list)).toMatchObject([{ content: 'secret' }])
  })

  test('refuses who is no member, whatever the work makes of it', async ({ db }) => {
    const { organizationId } = await makeScope(db)
    const { userId } = await makeScope(db)
    const refused = (work: (tenant: Tenant) => Promise<unknown>) =>
      expect(
        trying(db, (tx) => inTenant(tx, { organizationId, userId }, work)),
      ).rejects.toMatchObject({ name: 'ForbiddenError', reason: 'not_a_member' })

    await refused(list)
    await refused((tenant) => list(tenant).catch(() => []))
    await refused(async () => 'no query at all')
    await refused(() => {
      throw new Error('before any query')
    })
  })

  test('refuses ids that are none before any SQL', async ({ db }) => {
    const { organizationId, userId } = await makeScope(db)
    const entering = [
      () => inTenant(db, { organizationId: "' or true --", userId }, list),
      () => inTenant(db, { organizationId, userId: '' }, list),
      () => inTenant(db, { organizationId } as never, list),
      () => asService(db, 'garbage', list),
      () => readInTenant(db, { organizationId, userId: 'x' }, (tenant) => [list(tenant)]),
    ]

    for (const enter of entering) await expect(enter()).rejects.toBeInstanceOf(ValidationError)
    expect(await inTenant(db, { organizationId, userId }, list)).toEqual([])
  })

  test('takes an id in whatever case', async ({ db }) => {
    const { organizationId, userId } = await makeScope(db)
    const scope = { organizationId: organizationId.toUpperCase(), userId: userId.toUpperCase() }

    await inTenant(db, scope, async (tenant) => {
      await makeChunk(tenant, note)
      expect(await inTenant(tenant.db, { organizationId, userId }, list)).toHaveLength(1)
    })
  })

  test('is entered before a query that is sent at once', async ({ db }) => {
    const name = sql<string>`current_user::text`

    const rows = inTenant(db, await makeScope(db), (tenant) =>
      tenant.db.select({ name }).from(sql`(values (1)) as one`).execute(),
    )

    expect(await rows).toEqual([{ name: 'plinth_app' }])
  })

  test('ends with its work, also within a transaction', async ({ db }) => {
    const before = await oneOf(db)

    await inTenant(db, await makeScope(db), list)

    expect(await oneOf(db)).toEqual({ ...before, organization: '' })
  })

  test('ends with work that fails, also within a transaction', async ({ db }) => {
    const { name } = (await oneOf(db)) ?? {}
    const failing = inTenant(db, await makeScope(db), () => Promise.reject(new Error('mine')))

    await expect(failing).rejects.toThrow('mine')
    expect(await oneOf(db)).toMatchObject({ name })
  })

  test('is joined from within, by the same member only', async ({ db }) => {
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    const colleague = await joinScope(db, mine)

    await inTenant(db, mine, async (tenant) => {
      await makeChunk(tenant, note)
      expect(await inTenant(tenant.db, mine, list)).toHaveLength(1)
      expect(await readInTenant(tenant.db, mine, (same) => [list(same)])).toMatchObject([[{}]])
      await tenant.db.transaction(async (savepoint) => {
        expect(await inTenant(savepoint, mine, list)).toHaveLength(1)
        await expect(inTenant(savepoint, theirs, list)).rejects.toBeInstanceOf(ForbiddenError)
      })
      const others = [
        () => inTenant(tenant.db, theirs, list),
        () => inTenant(tenant.db, colleague, list),
        () => asService(tenant.db, mine.organizationId, list),
        () => readInTenant(tenant.db, theirs, (other) => [list(other)]),
      ]
      for (const enter of others) {
        await expect(enter()).rejects.toMatchObject({ reason: 'already_in_scope' })
      }
      expect(await list(tenant)).toHaveLength(1)
    })
  })

  test('cannot be entered by SQL from within another one', async ({ db }) => {
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    for (const call of [
      sql`select identity.enter_scope(${theirs.organizationId}::uuid, ${theirs.userId}::uuid)`,
      sql`select identity.enter_service_scope(${theirs.organizationId}::uuid)`,
      sql`select identity.granted_role(${theirs.organizationId}::uuid, ${theirs.userId}::uuid)`,
    ]) {
      const entering = trying(db, (tx) => inTenant(tx, mine, ({ db }) => rowsOf(db, call)))
      await expect(entering).rejects.toMatchObject({ name: 'ForbiddenError', reason: 'permission' })
    }
  })

  test('lets no query follow its transaction', async () => {
    const scope = await makeScope(root)

    const kept = await inTenant(root, scope, async (tenant) => ({ tenant }))

    await expect(list(kept.tenant)).rejects.toThrow()
  })

  test('lets no query follow its savepoint, whatever scope is open by then', async ({ db }) => {
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    await inTenant(db, theirs, (tenant) => makeChunk(tenant, note))
    const kept = await inTenant(db, mine, async (tenant) => ({ tenant }))
    const secrets = ({ db }: Tenant) => rowsOf(db, sql`select content from search.chunks`)

    await inTenant(db, theirs, async (tenant) => {
      await expect(secrets(kept.tenant)).rejects.toBeInstanceOf(TransactionError)
      await expect(inTenant(kept.tenant.db, mine, secrets)).rejects.toThrow()
      expect(await secrets(tenant)).toHaveLength(1)
    })
  })

  test('is one at a time in a transaction', async ({ db }) => {
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]

    const both = await Promise.allSettled([inTenant(db, mine, list), inTenant(db, theirs, list)])

    expect(both).toMatchObject([
      { status: 'fulfilled' },
      { status: 'rejected', reason: { name: 'TransactionError' } },
    ])
    expect(await inTenant(db, theirs, list)).toEqual([])
  })

  test('is not taken for committed when a failure in it was caught', async () => {
    const scope = await makeScope(root)
    const caught = inTenant(root, scope, async (tenant) => {
      await makeChunk(tenant, note)
      await makeChunk(tenant, { ...note, position: -1 }).catch(() => {})
    })

    await expect(caught).rejects.toBeInstanceOf(TransactionError)
    expect(await inTenant(root, scope, list)).toEqual([])
  })
})

describe('asService', () => {
  test('works on one organization, with the rights of an admin, in nobody’s name', async ({
    db,
  }) => {
    const [mine, theirs] = [await makeScope(db), await makeScope(db)]
    await inTenant(db, mine, (tenant) => makeChunk(tenant, { ...note, visibility: 'private' }))
    await inTenant(db, theirs, (tenant) => makeChunk(tenant, note))

    await asService(db, mine.organizationId, async (tenant) => {
      expect(await list(tenant)).toHaveLength(1)
      expect(await tenant.db.select().from(chunks)).toHaveLength(1)
      expect(await tenant.role).toBe('service')
      expect(tenant.userId).toBeUndefined()
    })
  })

  test('refuses an organization that does not exist', async ({ db }) => {
    const entering = asService(db, uuidV7(), list)

    await expect(entering).rejects.toMatchObject({ reason: 'organization_not_found' })
  })
})

describe('readInTenant', () => {
  test('answers independent reads in their order', async () => {
    const scope = await makeScope(root)
    await inTenant(root, scope, (tenant) => makeChunk(tenant, { ...note, content: 'a' }))

    const [found, members] = await readInTenant(root, scope, (tenant) => [
      list(tenant),
      listMembers(tenant),
    ])

    expect(found.map(({ content }) => content)).toEqual(['a'])
    expect(members.map(({ userId }) => userId)).toEqual([scope.userId])
  })

  test('sends a query of Drizzle’s own once', async () => {
    const scope = await makeScope(root)
    await inTenant(root, scope, (tenant) => makeChunk(tenant, note))

    const [rows] = await readInTenant(root, scope, ({ db }) => [db.select().from(chunks)])

    expect(rows).toHaveLength(1)
  })

  test('writes nothing', async () => {
    const scope = await makeScope(root)

    const writing = readInTenant(root, scope, (tenant) => [list(tenant), makeChunk(tenant, note)])

    await expect(writing).rejects.toBeInstanceOf(TransactionError)
    expect(await inTenant(root, scope, list)).toEqual([])
    // The mode has gone with the transaction.
    await inTenant(root, scope, (tenant) => makeChunk(tenant, note))
  })

  test('refuses who is no member, and tells the failure that came first', async () => {
    const [mine, theirs] = [await makeScope(root), await makeScope(root)]
    const foreign = { ...mine, userId: theirs.userId }
    const failing = (tenant: Tenant) => rowsOf(tenant.db, sql`select 1 / 0`)

    await expect(readInTenant(root, foreign, (tenant) => [list(tenant)])).rejects.toMatchObject({
      reason: 'not_a_member',
    })
    await expect(
      readInTenant(root, mine, (tenant) => [list(tenant), failing(tenant), list(tenant)]),
    ).rejects.toThrow(/select 1 \/ 0|division by zero/)
    expect(await inTenant(root, mine, list)).toEqual([])
  })

  test.skipIf(!url || process.env.PLINTH_TEST_DRIVER)('refuses a second statement', async () => {
    const scope = await makeScope(root)
    const twice = async (tenant: Tenant) => [await list(tenant), await list(tenant)]

    await expect(readInTenant(root, scope, (tenant) => [twice(tenant)])).rejects.toBeInstanceOf(
      TransactionError,
    )
  })
})

describe('a tenant', () => {
  test('is made by entering alone', async ({ db }) => {
    const scope = await makeScope(db)

    // @ts-expect-error: a database is no scope
    const bare = () => list(db)
    // @ts-expect-error: nor is one with ids beside it
    const forged = () => list({ db, ...scope, role: Promise.resolve('owner') })

    expect([bare, forged]).toHaveLength(2)
  })
})
