import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ApiKeyError, ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import {
  createApiKey,
  listApiKeys,
  revokeApiKey,
  verifyApiKey,
} from '../../src/queries/api-keys.ts'
import {
  archiveOrganization,
  archiveUser,
  restoreOrganization,
  restoreUser,
} from '../../src/queries/identity.ts'
import { addMember, removeMember } from '../../src/queries/members.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeApiKey, makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/database.ts'

/** As one that refuses leaves the surrounding transaction. */
const attempt = <T>(db: Database, scope: Scope, work: (tenant: Tenant) => Promise<T>) =>
  db.transaction((tx) => inTenant(tx, scope, work))

const lastUse = async (db: Database, { organizationId }: { organizationId: string }) =>
  (await asService(db, organizationId, (tenant) => listApiKeys(tenant)))[0]?.lastUsedAt

describe('createApiKey', () => {
  test('returns the text once, and keeps a hash', async ({ db }) => {
    const scope = await makeScope(db)
    const { text, ...key } = await inTenant(db, scope, (tenant) =>
      createApiKey(tenant, { name: 'ci', scopes: ['chat:write', 'chat:read', 'chat:read'] }),
    )

    expect(text).toMatch(/^plk_[0-9a-f]{32}_[0-9a-f]{32}_[\w-]{43}$/)
    expect(key).toMatchObject({ userId: scope.userId, createdBy: scope.userId, lastUsedAt: null })
    expect(key.scopes).toEqual(['chat:write', 'chat:read'])
    const [stored] = await inTenant(db, scope, ({ db }) =>
      rowsOf<{ row: string }>(db, sql`select to_jsonb(k)::text as row from identity.api_keys k`),
    )
    expect(stored?.row).not.toContain(text.slice(-43))
    expect(JSON.stringify(await inTenant(db, scope, listApiKeys))).not.toContain('secretHash')
  })

  test('acts for its maker, for nobody if an admin says so, and for nobody else', async ({
    db,
  }) => {
    const admin = await makeScope(db)
    const [member, viewer] = [await joinScope(db, admin), await joinScope(db, admin, 'viewer')]
    const make = (scope: Scope, userId?: string | null) =>
      attempt(db, scope, (tenant) => makeApiKey(tenant, userId === undefined ? {} : { userId }))

    expect(await make(member)).toMatchObject({ userId: member.userId })
    expect(await make(admin, null)).toMatchObject({ userId: null })
    for (const [scope, userId] of [
      ...[[member, null] as const, [member, admin.userId] as const],
      ...[[admin, member.userId] as const, [viewer, viewer.userId] as const],
    ]) {
      await expect(make(scope, userId)).rejects.toBeInstanceOf(ForbiddenError)
    }
    const service = await asService(db, admin.organizationId, (tenant) =>
      makeApiKey(tenant, { userId: member.userId }),
    )
    expect(service).toMatchObject({ userId: member.userId, createdBy: null })
  })

  test('refuses at the door', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      for (const wrong of [
        { name: '' },
        { name: 'a\0' },
        { name: 'a', scopes: ['*'] },
        { name: 'a', scopes: ['chat write'] },
        { name: 'a', scopes: Array(51).fill('a') },
        { name: 'a', lifetimeMs: 5 },
        { name: 'a', lifetimeMs: 5_000, expiresAt: new Date() },
        { name: 'a', userId: 'garbage' },
      ]) {
        await expect(createApiKey(tenant, wrong)).rejects.toBeInstanceOf(ValidationError)
      }
    })
  })
})

describe('verifyApiKey', () => {
  test('says whom the key acts for, and what it may be used for', async ({ db }) => {
    const scope = await makeScope(db)
    const key = await inTenant(db, scope, (tenant) =>
      makeApiKey(tenant, { name: 'ci', scopes: ['chat:write'] }),
    )

    expect(await verifyApiKey(db, key.text, { requiredScopes: ['chat:write'] })).toEqual({
      ...{ ...scope, id: key.id, name: 'ci', scopes: ['chat:write'] },
    })
    const lacking = verifyApiKey(db, key.text, { requiredScopes: ['chat:write', 'chat', 'x:y'] })
    await expect(lacking).rejects.toMatchObject({ reason: 'scope', missingScopes: ['chat', 'x:y'] })
  })

  test('tells a wrong secret, a missing key and a garbled text apart for nobody', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    const { text, id } = await inTenant(db, scope, (tenant) => makeApiKey(tenant))
    const other = await inTenant(db, scope, (tenant) => makeApiKey(tenant))
    const hex = (one: string) => one.replaceAll('-', '')

    for (const wrong of [
      `${text.slice(0, -2)}${text.endsWith('AA') ? 'BB' : 'AA'}`,
      text.slice(0, -43) + other.text.slice(-43),
      text.replace(hex(id), hex(uuidV7())),
      text.replace(hex(scope.organizationId), hex(uuidV7())),
      text.toUpperCase(),
      `${text} `,
      'plk_',
    ]) {
      const error = await verifyApiKey(db, wrong).catch((error) => error)
      expect(error).toBeInstanceOf(ApiKeyError)
      expect(error).toMatchObject({ reason: 'unknown', message: 'the API key is not known' })
    }
    const keys = await inTenant(db, scope, listApiKeys)
    expect(keys.map(({ lastUsedAt }) => lastUsedAt)).toEqual([null, null])
    await expect(verifyApiKey(db, '')).rejects.toBeInstanceOf(ValidationError)
  })

  test('refuses what has expired, by the clock and not by the transaction', async ({ db }) => {
    const scope = await makeScope(db)
    const { text } = await inTenant(db, scope, (tenant) =>
      makeApiKey(tenant, { lifetimeMs: 2_000 }),
    )
    await verifyApiKey(db, text)
    await new Promise((resolve) => setTimeout(resolve, 2_050))
    await expect(verifyApiKey(db, text)).rejects.toMatchObject({ reason: 'expired' })
  })

  test('refuses when its organization, its user or the membership is gone', async ({ db }) => {
    const scope = await makeScope(db)
    const member = await joinScope(db, scope)
    const { text } = await inTenant(db, member, (tenant) => makeApiKey(tenant))
    const outcome = () =>
      verifyApiKey(db, text).then(
        () => 'good',
        ({ reason }) => reason,
      )

    await archiveOrganization(db, scope.organizationId)
    expect(await outcome()).toBe('revoked')
    await restoreOrganization(db, scope.organizationId)
    await archiveUser(db, member.userId)
    expect(await outcome()).toBe('revoked')
    await restoreUser(db, member.userId)
    expect(await outcome()).toBe('good')
    await inTenant(db, scope, (tenant) => removeMember(tenant, member.userId))
    expect(await outcome()).toBe('unknown')
    await inTenant(db, scope, (tenant) => addMember(tenant, { userId: member.userId }))
    expect(await outcome(), 'a key of before').toBe('unknown')
  })

  test('writes the time of use at most once a minute', async ({ db }) => {
    const scope = await makeScope(db)
    const { text } = await inTenant(db, scope, (tenant) => makeApiKey(tenant))
    await verifyApiKey(db, text)
    const first = await lastUse(db, scope)
    await new Promise((resolve) => setTimeout(resolve, 20))
    await verifyApiKey(db, text)

    expect(first).toBeInstanceOf(Date)
    expect(await lastUse(db, scope)).toEqual(first)
    await asService(db, scope.organizationId, ({ db }) =>
      rowsOf(
        db,
        sql`update identity.api_keys set last_used_at = last_used_at - interval '61 seconds' returning id`,
      ),
    )
    await verifyApiKey(db, text)
    expect((await lastUse(db, scope))?.getTime()).toBeGreaterThan(first?.getTime() ?? 0)
  })
})

describe.skipIf(!url)('on a server', () => {
  const make = async () => {
    const scope = await makeScope(root)
    return { ...scope, ...(await inTenant(root, scope, (tenant) => makeApiKey(tenant))) }
  }

  test('verifying waits for nobody who holds the row', async () => {
    const key = await make()
    const done = await root.transaction(async (tx) => {
      await asService(tx, key.organizationId, ({ db }) =>
        rowsOf(db, sql`select id from identity.api_keys where id = ${key.id} for update`),
      )
      const verifying = Promise.all([1, 2, 3].map(() => verifyApiKey(root, key.text)))
      return Promise.race([
        verifying.then(() => 'verified'),
        new Promise((resolve) => setTimeout(resolve, 3_000, 'waits')),
      ])
    })
    expect(done).toBe('verified')
  })

  test('twenty at once all succeed, and twenty more write nothing', async () => {
    const key = await make()
    const verify = () => Promise.all(Array.from({ length: 20 }, () => verifyApiKey(root, key.text)))
    const version = () =>
      rowsOf(
        owner,
        sql`select xmin::text, ctid::text, last_used_at from identity.api_keys
          where id = ${key.id} and last_used_at is not null`,
      )
    await verify()
    const before = await version()
    await verify()
    expect(before).toHaveLength(1)
    expect(await version()).toEqual(before)
  })

  test('works where nothing may be written, and under a snapshot of before', async () => {
    const key = await make()
    const verify = (accessMode: 'read only' | 'read write') =>
      root.transaction(
        async (tx) => {
          await rowsOf(tx, sql`select count(*) from identity.organizations`)
          await rowsOf(
            owner,
            sql`update identity.api_keys set last_used_at = null where id = ${key.id} returning id`,
          )
          return verifyApiKey(tx, key.text)
        },
        { isolationLevel: 'repeatable read', accessMode },
      )
    expect(await verify('read only')).toMatchObject({ id: key.id })
    expect(await verify('read write')).toMatchObject({ id: key.id })
  })

  test('reads the key by its primary key, among many', async () => {
    const key = await make()
    await rowsOf(
      owner,
      sql`insert into identity.api_keys (organization_id, id, name, secret_hash)
        select ${key.organizationId}::uuid, gen_random_uuid(), 'n', sha256(n::text::bytea)
        from generate_series(1, 5000) n returning id`,
    )
    await rowsOf(owner, sql`analyze identity.api_keys`)
    const plan = await rowsOf<{ 'QUERY PLAN': string }>(
      owner,
      sql`explain select k.secret_hash from identity.api_keys k
        join identity.organizations o on o.id = k.organization_id
        left join identity.users u on u.id = k.user_id
        where k.organization_id = ${key.organizationId} and k.id = ${key.id}`,
    )
    const scans = plan
      .map((row) => row['QUERY PLAN'])
      .filter((line) => /Scan.* api_keys/.test(line))
    expect(scans).toEqual([expect.stringMatching(/Index Scan using api_keys_pkey/)])
  })
})

describe('revokeApiKey and listApiKeys', () => {
  test('end a key, once, by whom it is for or an admin', async ({ db }) => {
    const admin = await makeScope(db)
    const [ann, ben] = [await joinScope(db, admin), await joinScope(db, admin)]
    const key = await inTenant(db, ann, (tenant) => makeApiKey(tenant))
    const second = await inTenant(db, ann, (tenant) => makeApiKey(tenant))

    const strange = attempt(db, ben, (tenant) => revokeApiKey(tenant, key.id))
    await expect(strange).rejects.toBeInstanceOf(NotFoundError)
    await inTenant(db, ann, (tenant) => revokeApiKey(tenant, key.id))
    await inTenant(db, admin, (tenant) => revokeApiKey(tenant, second.id))
    const [listed] = await inTenant(db, ann, listApiKeys)
    await inTenant(db, ann, (tenant) => revokeApiKey(tenant, second.id))
    expect((await inTenant(db, ann, listApiKeys))[0]?.revokedAt).toEqual(listed?.revokedAt)
    for (const { text } of [key, second]) {
      await expect(verifyApiKey(db, text)).rejects.toMatchObject({ reason: 'revoked' })
    }
  })

  test('list newest first, a page at a time, to members their own', async ({ db }) => {
    const admin = await makeScope(db)
    const ann = await joinScope(db, admin)
    const other = await makeScope(db)
    await inTenant(db, other, (tenant) => makeApiKey(tenant))
    const a = await inTenant(db, ann, (tenant) => makeApiKey(tenant))
    const b = await inTenant(db, admin, (tenant) => makeApiKey(tenant, { userId: null }))
    const ids = async (scope: Scope, options = {}) =>
      (await inTenant(db, scope, (tenant) => listApiKeys(tenant, options))).map(({ id }) => id)

    expect(await ids(admin)).toEqual([b.id, a.id])
    expect(await ids(ann)).toEqual([a.id])
    expect(await ids(admin, { limit: 1 })).toEqual([b.id])
    expect(await ids(admin, { after: b.id })).toEqual([a.id])
    expect(await ids(admin, { userId: null })).toEqual([b.id])
    expect(await ids(admin, { userId: ann.userId })).toEqual([a.id])
  })
})
