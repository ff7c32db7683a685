import { sql } from 'drizzle-orm'
import { afterAll, describe, expect } from 'vitest'
import { connect, type Database, only, rowsOf } from '../../src/database.ts'
import {
  ForbiddenError,
  InvitationError,
  LastOwnerError,
  LockError,
  NotFoundError,
  PlinthError,
} from '../../src/errors.ts'
import { archiveOrganization, archiveUser, restoreUser } from '../../src/queries/identity.ts'
import { acceptInvitation, inviteMember, revokeInvitation } from '../../src/queries/invitations.ts'
import {
  addMember,
  changeMemberRole,
  listMembers,
  removeMember,
  transferOwnership,
} from '../../src/queries/members.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { joinScope, makeScope, makeUser } from '../../src/testing/factories.ts'
import { root, test, url } from '../support/database.ts'
import { random } from '../support/random.ts'

// Of eight sessions that change who owns one organization at once. Servers only: PGlite has one session.
const SESSIONS = 8
const ROUNDS = 30
const pool = url ? await connect(url, { maxConnections: SESSIONS }) : undefined
const db: Database = pool ?? root
afterAll(() => pool?.close())

const ownersOf = async (organizationId: string) => {
  const members = await asService(root, organizationId, (tenant) => listMembers(tenant))
  const canEnter = members.filter(({ deactivatedAt }) => deactivatedAt === null)
  return {
    owners: members.filter(({ role }) => role === 'owner').length,
    members: canEnter.length,
    owning: canEnter.filter(({ role }) => role === 'owner').length,
  }
}

type Isolation = 'read committed' | 'repeatable read'

/** One change by chance, as a service or as a member, in a transaction of its own. */
function change(roll: (below: number) => number, users: readonly string[], scope: Scope) {
  const anyone = () => users[roll(users.length)] ?? scope.userId
  const [subject, other, actor] = [anyone(), anyone(), anyone()]
  const role = (['viewer', 'member', 'admin', 'owner'] as const)[roll(4)] ?? 'viewer'
  const isolationLevel: Isolation = roll(3) === 0 ? 'repeatable read' : 'read committed'
  const isService = roll(2) === 0
  const inScope = (work: (tenant: Tenant) => Promise<unknown>) =>
    db.transaction(
      (tx) =>
        isService
          ? asService(tx, scope.organizationId, work)
          : inTenant(tx, { ...scope, userId: actor }, work),
      { isolationLevel },
    )
  const kinds = [
    () => inScope((tenant) => changeMemberRole(tenant, { userId: subject, role })),
    () => inScope((tenant) => changeMemberRole(tenant, { userId: subject, role: 'viewer' })),
    () => inScope((tenant) => removeMember(tenant, isService ? subject : actor)),
    () => inScope((tenant) => transferOwnership(tenant, { fromUserId: subject, toUserId: other })),
    () => db.transaction((tx) => archiveUser(tx, subject), { isolationLevel }),
  ]
  return kinds[roll(kinds.length)]?.()
}

describe.skipIf(!url)('an organization keeps an owner who can enter', () => {
  test('whatever eight sessions change at once, in whatever order', async () => {
    const outcomes: Record<string, number> = {}
    for (let round = 0; round < ROUNDS; round += 1) {
      const roll = random(round)
      const scope = await makeScope(root)
      const joined: Scope[] = []
      for (const role of ['owner', 'owner', 'admin', 'member'] as const) {
        joined.push(await joinScope(root, scope, role))
      }
      const users = [scope, ...joined].map(({ userId }) => userId)

      const results = await Promise.allSettled(
        Array.from({ length: SESSIONS }, () => change(roll, users, scope)),
      )

      for (const result of results) {
        const reason = result.status === 'rejected' ? result.reason : undefined
        expect(reason ?? new LockError('serialization'), `round ${round}`).toBeInstanceOf(
          PlinthError,
        )
        const name = reason instanceof LockError ? reason.kind : (reason?.name ?? 'done')
        outcomes[name] = (outcomes[name] ?? 0) + 1
      }
      const { owners, members, owning } = await ownersOf(scope.organizationId)
      expect(owners, `round ${round}`).toBeGreaterThan(0)
      if (members > 0) expect(owning, `round ${round}`).toBeGreaterThan(0)
    }
    // Nobody waits in a circle, and the rounds are not all refusals.
    expect(outcomes.deadlock).toBeUndefined()
    expect(outcomes.done).toBeGreaterThan(ROUNDS)
    expect(outcomes.LastOwnerError).toBeGreaterThan(0)
  }, 120_000)

  const pairs: Record<string, (a: Scope, b: Scope) => (() => Promise<unknown>)[]> = {
    'both owners are deactivated': (a, b) => [
      () => archiveUser(db, a.userId),
      () => archiveUser(db, b.userId),
    ],
    'one leaves and the other is deactivated': (a, b) => [
      () => inTenant(db, a, (tenant) => removeMember(tenant, a.userId)),
      () => archiveUser(db, b.userId),
    ],
    'one hands over to a third, who is deactivated': (a, b) => [
      async () => {
        await inTenant(db, b, (tenant) => removeMember(tenant, b.userId))
        const { id } = await makeUser(root)
        await inTenant(db, a, (tenant) => addMember(tenant, { userId: id }))
        await Promise.allSettled([
          inTenant(db, a, (tenant) =>
            transferOwnership(tenant, { fromUserId: a.userId, toUserId: id }),
          ),
          archiveUser(db, id),
        ])
      },
    ],
  }

  test.each(Object.entries(pairs))(
    'when %s at once',
    async (_, make) => {
      for (let round = 0; round < 10; round += 1) {
        const a = await makeScope(root)
        const b = await joinScope(root, a, 'owner')
        await joinScope(root, a)
        const results = await Promise.allSettled(make(a, b).map((one) => one()))
        for (const { reason } of results.filter((one) => one.status === 'rejected')) {
          expect([LastOwnerError, ForbiddenError].some((kind) => reason instanceof kind)).toBe(true)
        }
        expect((await ownersOf(a.organizationId)).owning).toBeGreaterThan(0)
      }
    },
    60_000,
  )

  test('under a snapshot of before as well', async () => {
    const a = await makeScope(root)
    const b = await joinScope(root, a, 'owner')
    await joinScope(root, a)
    const leaving = db.transaction(
      async (tx) => {
        await rowsOf(tx, sql`select count(*) from identity.organizations`)
        await archiveUser(root, b.userId)
        return inTenant(tx, a, (tenant) => removeMember(tenant, a.userId))
      },
      { isolationLevel: 'repeatable read' },
    )
    await expect(leaving).rejects.toMatchObject({ name: 'LockError', kind: 'serialization' })
    expect(await ownersOf(a.organizationId)).toMatchObject({ owning: 1 })
  })
})

describe('archiveUser', () => {
  test('leaves no team without an owner who can enter', async ({ db }) => {
    const owner = await makeScope(db)
    await archiveUser(db, owner.userId)
    await restoreUser(db, owner.userId)
    const member = await joinScope(db, owner)
    const tried = () => db.transaction((tx) => archiveUser(tx, owner.userId))

    const error = await tried().catch((error) => error)
    expect(error).toBeInstanceOf(LastOwnerError)
    expect(error.organizationId).toBe(owner.organizationId)
    await archiveUser(db, member.userId)
    await tried()
    await tried()
    const scope = inTenant(db, owner, async () => 'in')
    await expect(db.transaction(() => scope)).rejects.toMatchObject({ reason: 'user_deactivated' })
  })

  test('may be told to, by handing over or by closing the organization', async ({ db }) => {
    const [first, second] = [await makeScope(db), await makeScope(db)]
    const member = await joinScope(db, first)
    await joinScope(db, second)

    await asService(db, first.organizationId, (tenant) =>
      transferOwnership(tenant, { fromUserId: first.userId, toUserId: member.userId }),
    )
    await archiveUser(db, first.userId)
    await archiveOrganization(db, second.organizationId)
    await archiveUser(db, second.userId)
  })

  test('does not count, and cannot be made, an owner who cannot enter', async ({ db }) => {
    const owner = await makeScope(db)
    const [gone, other] = [await joinScope(db, owner, 'owner'), await joinScope(db, owner)]
    await archiveUser(db, gone.userId)
    await archiveUser(db, other.userId)
    const attempt = (work: (tenant: Tenant) => Promise<unknown>) =>
      db.transaction((tx) => inTenant(tx, owner, work))
    const { userId } = owner

    await expect(attempt((it) => removeMember(it, userId))).rejects.toBeInstanceOf(LastOwnerError)
    await expect(
      attempt((it) => changeMemberRole(it, { userId, role: 'admin' })),
    ).rejects.toBeInstanceOf(LastOwnerError)
    for (const becoming of [
      (it: Tenant) => transferOwnership(it, { fromUserId: userId, toUserId: other.userId }),
      (it: Tenant) => changeMemberRole(it, { userId: other.userId, role: 'owner' }),
    ]) {
      await expect(attempt(becoming)).rejects.toMatchObject({ reason: 'user_deactivated' })
    }
  })
})

describe.skipIf(!url)('an invitation', () => {
  const invite = async () => {
    const scope = await makeScope(root)
    const user = await makeUser(root)
    const one = () => inTenant(root, scope, (tenant) => inviteMember(tenant, { email: user.email }))
    return { scope, user, first: await one(), second: await one() }
  }

  test('is accepted once, of two at once', async () => {
    for (let round = 0; round < 10; round += 1) {
      const { scope, user, first, second } = await invite()
      const tokens = round % 2 ? [first.token, first.token] : [first.token, second.token]
      const results = await Promise.allSettled(
        tokens.map((token) => acceptInvitation(db, { token, userId: user.id })),
      )
      const refused = results.filter((result) => result.status === 'rejected')
      expect(refused).toHaveLength(1)
      expect(refused[0]?.reason).toBeInstanceOf(InvitationError)
      const members = await asService(root, scope.organizationId, (tenant) => listMembers(tenant))
      expect(members).toHaveLength(2)
    }
  }, 60_000)

  test('is either accepted or revoked', async () => {
    const seen = new Set<string>()
    for (let round = 0; round < 10; round += 1) {
      const { scope, user, first } = await invite()
      const acts = [
        () => acceptInvitation(db, { token: first.token, userId: user.id }),
        () => inTenant(db, scope, (tenant) => revokeInvitation(tenant, first.id)),
      ]
      const results = await Promise.allSettled(
        (round % 2 ? acts : acts.toReversed()).map((act) => act()),
      )
      const refused = results.filter((result) => result.status === 'rejected')
      expect(refused.map(({ reason }) => reason.name)).toEqual(['InvitationError'])
      const { count } = only(
        await asService(root, scope.organizationId, ({ db }) =>
          rowsOf<{ count: number }>(
            db,
            sql`select count(*)::integer as count from identity.memberships where user_id = ${user.id}`,
          ),
        ),
      )
      seen.add(refused[0]?.reason.reason)
      expect(count).toBe(refused[0]?.reason.reason === 'accepted' ? 1 : 0)
    }
    expect([...seen].every((reason) => ['accepted', 'revoked'].includes(reason))).toBe(true)
  }, 60_000)
})

test('a change of who is not there is a NotFoundError', async ({ db }) => {
  const scope = await makeScope(db)
  const { id: userId } = await makeUser(db)
  const changing = inTenant(db, scope, (tenant) =>
    changeMemberRole(tenant, { userId, role: 'owner' }),
  )
  await expect(changing).rejects.toBeInstanceOf(NotFoundError)
})
