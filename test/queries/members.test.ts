import { describe, expect } from 'vitest'
import { ForbiddenError, LastOwnerError, NotFoundError, ValidationError } from '../../src/errors.ts'
import {
  addMember,
  changeMemberRole,
  listMembers,
  removeMember,
  transferOwnership,
} from '../../src/queries/members.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { joinScope, makeScope, makeUser } from '../../src/testing/factories.ts'
import { root, test, url } from '../support/database.ts'

describe('addMember', () => {
  test('is for admins; to add an owner, for owners', async ({ db }) => {
    const owner = await makeScope(db)
    const [admin, editor] = [
      await joinScope(db, owner, 'admin'),
      await joinScope(db, owner, 'editor'),
    ]
    const add = async (scope: Scope, role: 'member' | 'owner') => {
      const { id: userId } = await makeUser(db)
      return db.transaction((tx) =>
        inTenant(tx, scope, (tenant) => addMember(tenant, { userId, role })),
      )
    }

    expect(await add(admin, 'member')).toMatchObject({ role: 'member', invitedBy: admin.userId })
    expect(await add(owner, 'owner')).toMatchObject({ role: 'owner' })
    await expect(add(editor, 'member')).rejects.toBeInstanceOf(ForbiddenError)
    await expect(add(admin, 'owner')).rejects.toBeInstanceOf(ForbiddenError)
  })

  test('refuses who is a member already, and who does not exist', async ({ db }) => {
    const owner = await makeScope(db)
    const member = await joinScope(db, owner)
    const add = (userId: string) =>
      db.transaction((tx) => inTenant(tx, owner, (tenant) => addMember(tenant, { userId })))

    await expect(add(member.userId)).rejects.toMatchObject({ constraint: 'memberships_pkey' })
    await expect(add(uuidV7())).rejects.toMatchObject({ kind: 'foreign_key' })
    await expect(add('garbage')).rejects.toBeInstanceOf(ValidationError)
  })
})

describe('changeMemberRole', () => {
  test('changes the role of a member', async ({ db }) => {
    const owner = await makeScope(db)
    const { userId } = await joinScope(db, owner)

    await inTenant(db, owner, (tenant) => changeMemberRole(tenant, { userId, role: 'editor' }))

    expect(await inTenant(db, { ...owner, userId }, ({ role }) => role)).toBe('editor')
  })

  test('leaves owners to owners', async ({ db }) => {
    const owner = await makeScope(db)
    const admin = await joinScope(db, owner, 'admin')
    const change = (scope: Scope, userId: string, role: 'owner' | 'viewer') =>
      db.transaction((tx) =>
        inTenant(tx, scope, (tenant) => changeMemberRole(tenant, { userId, role })),
      )

    await expect(change(admin, owner.userId, 'viewer')).rejects.toBeInstanceOf(NotFoundError)
    await expect(change(admin, admin.userId, 'owner')).rejects.toBeInstanceOf(ForbiddenError)
    await expect(change(owner, uuidV7(), 'viewer')).rejects.toBeInstanceOf(NotFoundError)
    await expect(change(owner, owner.userId, 'viewer')).rejects.toBeInstanceOf(LastOwnerError)
    expect(await change(owner, admin.userId, 'owner')).toMatchObject({ role: 'owner' })
    expect(await change(owner, owner.userId, 'viewer')).toMatchObject({ role: 'viewer' })
  })
})

describe('removeMember', () => {
  test('lets a member leave, an admin remove, and the last owner do neither', async ({ db }) => {
    const owner = await makeScope(db)
    const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
    const remove = (scope: Scope, userId: string) =>
      db.transaction((tx) => inTenant(tx, scope, (tenant) => removeMember(tenant, userId)))

    await expect(remove(ann, ben.userId)).rejects.toBeInstanceOf(NotFoundError)
    await remove(ann, ann.userId)
    await remove(owner, ben.userId)
    await expect(remove(owner, owner.userId)).rejects.toBeInstanceOf(LastOwnerError)

    const members = await inTenant(db, owner, listMembers)
    expect(members.map(({ userId }) => userId)).toEqual([owner.userId])
  })
})

describe('transferOwnership', () => {
  test('makes the one an owner and the other an admin, or neither', async ({ db }) => {
    const owner = await makeScope(db)
    const ann = await joinScope(db, owner)
    const transfer = (scope: Scope, fromUserId: string, toUserId: string) =>
      db.transaction((tx) =>
        inTenant(tx, scope, (tenant) => transferOwnership(tenant, { fromUserId, toUserId })),
      )

    await expect(transfer(owner, owner.userId, uuidV7())).rejects.toBeInstanceOf(NotFoundError)
    await expect(transfer(owner, ann.userId, owner.userId)).rejects.toBeInstanceOf(NotFoundError)
    await expect(transfer(ann, owner.userId, ann.userId)).rejects.toThrow()
    expect(await transfer(owner, owner.userId, ann.userId)).toMatchObject({ role: 'owner' })
    expect(await inTenant(db, owner, ({ role }) => role)).toBe('admin')
  })
})

test.skipIf(!url)('owners who all step back at once leave one owner', async () => {
  const first = await makeScope(root)
  const owners = [
    first,
    ...(await Promise.all([1, 2, 3].map(() => joinScope(root, first, 'owner')))),
  ]

  const steps = await Promise.allSettled(
    owners.map((scope, at) =>
      inTenant(root, scope, (tenant) =>
        at % 2
          ? removeMember(tenant, scope.userId)
          : changeMemberRole(tenant, { userId: scope.userId, role: 'viewer' }),
      ),
    ),
  )

  const refused = steps.filter((step) => step.status === 'rejected')
  expect(refused.map(({ reason }) => reason.name)).toEqual(['LastOwnerError'])
  const members = await asService(root, first.organizationId, listMembers)
  expect(members.filter(({ role }) => role === 'owner')).toHaveLength(1)
})

describe('listMembers', () => {
  test('lists the members of this organization alone, a page at a time', async ({ db }) => {
    const owner = await makeScope(db)
    const ann = await joinScope(db, owner)
    await joinScope(db, await makeScope(db))

    await inTenant(db, ann, async (tenant) => {
      const [first, ...more] = await listMembers(tenant, { limit: 1 })
      const rest = await listMembers(tenant, { after: first?.userId })

      expect(more).toEqual([])
      expect([first, ...rest].map((member) => member?.userId)).toEqual([owner.userId, ann.userId])
      expect(first).toMatchObject({ role: 'owner', joinedAt: expect.any(Date) })
    })
  })
})
