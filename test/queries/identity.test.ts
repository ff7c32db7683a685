import { describe, expect } from 'vitest'
import {
  ConstraintError,
  ForbiddenError,
  NotFoundError,
  ValidationError,
} from '../../src/errors.ts'
import {
  archiveOrganization,
  archiveUser,
  createOrganization,
  findOrganizationBySlug,
  findUserByEmail,
  getOrganization,
  getUser,
  listOrganizations,
  restoreOrganization,
  restoreUser,
  updateOrganization,
  upsertUser,
} from '../../src/queries/identity.ts'
import { addMember } from '../../src/queries/members.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant } from '../../src/tenant.ts'
import { makeOrganization, makeScope, makeUser } from '../../src/testing/factories.ts'
import { test } from '../support/database.ts'

const known = { provider: 'clerk', subject: 'u_1', email: 'Ann@example.com' }

describe('upsertUser', () => {
  test('creates a user once, and keeps what it is not given', async ({ db }) => {
    const created = await upsertUser(db, { ...known, displayName: 'Ann', avatarUrl: 'https://a/1' })

    const updated = await upsertUser(db, { ...known, email: 'ann@example.org' })

    expect(updated).toMatchObject({
      ...{ id: created.id, email: 'ann@example.org' },
      ...{ displayName: 'Ann', avatarUrl: 'https://a/1' },
    })
    expect(await upsertUser(db, { ...known, avatarUrl: null })).toMatchObject({ avatarUrl: null })
  })

  test('refuses the address of another user, in whatever case', async ({ db }) => {
    await upsertUser(db, known)

    const taking = upsertUser(db, { ...known, subject: 'u_2', email: 'ann@EXAMPLE.com' })

    await expect(taking).rejects.toMatchObject({
      ...{ name: 'ConstraintError', kind: 'unique', constraint: 'users_email_key' },
    })
  })

  test('tells nothing of the row in its error', async ({ db }) => {
    await upsertUser(db, known)

    const error = await upsertUser(db, { ...known, subject: 'u_2' }).catch((error) => error)

    expect(error).toBeInstanceOf(ConstraintError)
    const told = JSON.stringify(error, Object.getOwnPropertyNames(error))
    const cause = JSON.stringify(error.cause, Object.getOwnPropertyNames(error.cause))
    expect(told + cause).not.toContain('example.com')
  })

  test('refuses what is no address or no text before any SQL', async ({ db }) => {
    for (const wrong of [
      { email: 'ann' },
      { email: 'a@b\0' },
      { subject: '' },
      { provider: '\ud800' },
    ]) {
      await expect(upsertUser(db, { ...known, ...wrong })).rejects.toBeInstanceOf(ValidationError)
    }
    expect(await upsertUser(db, known)).toBeDefined()
  })
})

describe('a user', () => {
  test('is found by id and by address', async ({ db }) => {
    const user = await upsertUser(db, known)

    expect(await getUser(db, user.id)).toEqual(user)
    expect(await findUserByEmail(db, 'ANN@example.com')).toEqual(user)
    expect(await findUserByEmail(db, 'ben@example.com')).toBeUndefined()
    await expect(getUser(db, uuidV7())).rejects.toBeInstanceOf(NotFoundError)
  })

  test('enters no scope while deactivated', async ({ db }) => {
    const scope = await makeScope(db)
    const entering = () => inTenant(db, scope, ({ role }) => role)

    await archiveUser(db, scope.userId)
    await archiveUser(db, scope.userId)
    await expect(
      db.transaction((tx) => inTenant(tx, scope, ({ role }) => role)),
    ).rejects.toMatchObject({ name: 'ForbiddenError', reason: 'user_deactivated' })
    await restoreUser(db, scope.userId)

    expect(await entering()).toBe('owner')
    await expect(archiveUser(db, uuidV7())).rejects.toBeInstanceOf(NotFoundError)
  })
})

describe('createOrganization', () => {
  test('makes its creator the owner', async ({ db }) => {
    const owner = await makeUser(db)

    const { id } = await createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: owner.id })

    const scope = { organizationId: id, userId: owner.id }
    expect(await inTenant(db, scope, ({ role }) => role)).toBe('owner')
    expect(await findOrganizationBySlug(db, 'ACME')).toMatchObject({ id, kind: 'team' })
  })

  test('refuses a slug that is taken, and leaves nothing behind', async ({ db }) => {
    const { id: ownerId } = await makeUser(db)
    await makeOrganization(db, { slug: 'acme' })

    const again = createOrganization(db, { slug: 'Acme', name: 'Acme', ownerId })

    await expect(again).rejects.toMatchObject({ constraint: 'organizations_slug_key' })
    expect(await listOrganizations(db, { userId: ownerId })).toEqual([])
  })

  test('refuses an owner who does not exist', async ({ db }) => {
    const creating = createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: uuidV7() })

    await expect(creating).rejects.toMatchObject({ kind: 'foreign_key' })
    expect(await findOrganizationBySlug(db, 'acme')).toBeUndefined()
  })
})

describe('archiveOrganization', () => {
  test('closes it to members and services, until it is restored', async ({ db }) => {
    const scope = await makeScope(db)
    const { organizationId } = scope
    await archiveOrganization(db, organizationId)

    const refused = { name: 'ForbiddenError', reason: 'organization_archived' }
    const entering = [
      () => inTenant(db, scope, async () => 'in'),
      () => asService(db, organizationId, async () => 'in'),
    ]
    for (const enter of entering) await expect(enter()).rejects.toMatchObject(refused)
    expect(await listOrganizations(db, scope)).toEqual([])
    await restoreOrganization(db, organizationId)

    for (const enter of entering) expect(await enter()).toBe('in')
    expect(await getOrganization(db, organizationId)).toMatchObject({ archivedAt: null })
  })
})

describe('listOrganizations', () => {
  test('pages through those of one user', async ({ db }) => {
    const { id: userId } = await makeUser(db)
    const ids: string[] = []
    for (const _ of [1, 2, 3]) {
      const { id, ownerId } = await makeOrganization(db)
      const scope = { organizationId: id, userId: ownerId }
      await inTenant(db, scope, (tenant) => addMember(tenant, { userId, role: 'editor' }))
      ids.push(id)
    }

    const first = await listOrganizations(db, { userId, limit: 2 })
    const rest = await listOrganizations(db, { userId, limit: 2, after: first[1]?.organizationId })

    expect([...first, ...rest].map(({ organizationId }) => organizationId)).toEqual(ids)
    expect(first[0]).toMatchObject({ role: 'editor', joinedAt: expect.any(Date) })
    for (const limit of [0, -1, 501, 1.5, Number.NaN]) {
      await expect(listOrganizations(db, { userId, limit })).rejects.toBeInstanceOf(ValidationError)
    }
  })
})

describe('platform tables', () => {
  test('are out of reach in a scope', async ({ db }) => {
    const scope = await makeScope(db)

    await expect(inTenant(db, scope, ({ db }) => getUser(db, scope.userId))).rejects.toBeInstanceOf(
      ForbiddenError,
    )
  })
})

describe('updateOrganization', () => {
  test('changes what it is given, and nothing else', async ({ db }) => {
    const { id, name } = await makeOrganization(db)

    expect(await updateOrganization(db, { id, timeZone: 'Europe/Berlin' })).toMatchObject({
      ...{ name, timeZone: 'Europe/Berlin' },
    })
    expect(await updateOrganization(db, { id, name: 'New', settings: { a: 1 } })).toMatchObject({
      ...{ name: 'New', timeZone: 'Europe/Berlin', settings: { a: 1 } },
    })
    expect(await updateOrganization(db, { id })).toMatchObject({ name: 'New', settings: { a: 1 } })
  })

  test('refuses what is no time zone, and an organization that is not there', async ({ db }) => {
    const { id, ownerId } = await makeOrganization(db)

    for (const timeZone of ['+01:00', 'CET', 'Nowhere/City', '']) {
      await expect(updateOrganization(db, { id, timeZone })).rejects.toBeInstanceOf(ValidationError)
      await expect(
        createOrganization(db, { slug: uuidV7(), name: 'New', ownerId, timeZone }),
      ).rejects.toBeInstanceOf(ValidationError)
    }
    await expect(updateOrganization(db, { id: uuidV7() })).rejects.toBeInstanceOf(NotFoundError)
  })
})
