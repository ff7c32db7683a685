import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError } from '../../src/errors.ts'
import { archiveUser, getUser } from '../../src/queries/identity.ts'
import {
  acceptInvitation,
  inviteMember,
  listInvitations,
  revokeInvitation,
} from '../../src/queries/invitations.ts'
import { removeMember } from '../../src/queries/members.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant } from '../../src/tenant.ts'
import { joinScope, makeScope, makeUser } from '../../src/testing/factories.ts'
import { test } from '../support/database.ts'

describe('an invitation', () => {
  test('makes its reader a member, once', async ({ db }) => {
    const owner = await makeScope(db)
    const ann = await makeUser(db, { email: 'Ann@example.com' })
    const { token } = await inTenant(db, owner, (tenant) =>
      inviteMember(tenant, { email: 'ann@example.com', role: 'editor' }),
    )

    const membership = await acceptInvitation(db, { token, userId: ann.id })

    expect(membership).toMatchObject({ role: 'editor', invitedBy: owner.userId })
    const again = db.transaction((tx) => acceptInvitation(tx, { token, userId: ann.id }))
    await expect(again).rejects.toMatchObject({ reason: 'accepted' })
    const [listed] = await inTenant(db, owner, listInvitations)
    expect(listed).toMatchObject({ acceptedBy: ann.id })
    expect(JSON.stringify(listed)).not.toContain('oken')
  })

  test('is refused when unknown, revoked, expired, or made out to another', async ({ db }) => {
    const owner = await makeScope(db)
    const ann = await makeUser(db, { email: 'ann@example.com' })
    const invite = (email = 'ann@example.com') =>
      inTenant(db, owner, (tenant) => inviteMember(tenant, { email }))
    const refused = async (token: string, reason: string) =>
      expect(
        db.transaction((tx) => acceptInvitation(tx, { token, userId: ann.id })),
      ).rejects.toMatchObject({ name: 'InvitationError', reason })

    const invitation = await invite()
    await refused('nonsense', 'unknown')
    await refused(
      `${invitation.token.slice(0, -1)}${invitation.token.endsWith('A') ? 'E' : 'A'}`,
      'unknown',
    )
    await inTenant(db, owner, (tenant) => revokeInvitation(tenant, invitation.id))
    await refused(invitation.token, 'revoked')
    await refused((await invite('ben@example.com')).token, 'email')
    const expiring = await invite()
    await asService(db, owner.organizationId, ({ db }) =>
      rowsOf(
        db,
        sql`update identity.invitations set expires_at = now() - interval '1 s' where id = ${expiring.id}`,
      ),
    )
    await refused(expiring.token, 'expired')
    expect(await getUser(db, ann.id)).toBeDefined()
  })

  test('is for admins to make and to see', async ({ db }) => {
    const owner = await makeScope(db)
    const editor = await joinScope(db, owner, 'editor')
    await inTenant(db, owner, (tenant) => inviteMember(tenant, { email: 'ann@example.com' }))

    expect(await inTenant(db, editor, listInvitations)).toEqual([])
    const inviting = inTenant(db, editor, (tenant) =>
      inviteMember(tenant, { email: 'b@example.com' }),
    )
    await expect(inviting).rejects.toBeInstanceOf(ForbiddenError)
  })

  test('that was not used brings nobody back who was removed', async ({ db }) => {
    const owner = await makeScope(db)
    const ann = await makeUser(db, { email: 'ann@example.com' })
    const invite = (role: 'admin' | 'member') =>
      inTenant(db, owner, (tenant) => inviteMember(tenant, { email: 'ann@example.com', role }))
    const [first, second] = [await invite('member'), await invite('admin')]
    await acceptInvitation(db, { token: first.token, userId: ann.id })
    await inTenant(db, owner, (tenant) => removeMember(tenant, ann.id))

    const again = db.transaction((tx) =>
      acceptInvitation(tx, { token: second.token, userId: ann.id }),
    )

    await expect(again).rejects.toMatchObject({ reason: 'revoked' })
  })

  test('is not for a deactivated user, nor of an organization that does not exist', async ({
    db,
  }) => {
    const owner = await makeScope(db)
    const ann = await makeUser(db, { email: 'ann@example.com' })
    const { token, id } = await inTenant(db, owner, (tenant) =>
      inviteMember(tenant, { email: 'ann@example.com' }),
    )
    const elsewhere = token.replace(/^pli_.{32}/, `pli_${uuidV7().replaceAll('-', '')}`)
    const accept = (token: string) =>
      db.transaction((tx) => acceptInvitation(tx, { token, userId: ann.id }))

    await expect(accept(elsewhere)).rejects.toMatchObject({ reason: 'unknown' })
    await archiveUser(db, ann.id)
    await expect(accept(token)).rejects.toMatchObject({ reason: 'user_deactivated' })
    const editor = await joinScope(db, owner, 'editor')
    await expect(
      db.transaction((tx) => inTenant(tx, editor, (tenant) => revokeInvitation(tenant, id))),
    ).rejects.toBeInstanceOf(NotFoundError)
  })
})
