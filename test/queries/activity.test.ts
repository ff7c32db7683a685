import { type SQL, sql } from 'drizzle-orm'
import { beforeAll, describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ForbiddenError, MissingPartitionError, ValidationError } from '../../src/errors.ts'
import {
  type ActivityEntry,
  type ListActivityOptions,
  listActivity,
  recordActivities,
  recordActivity,
} from '../../src/queries/activity.ts'
import type { activityLogs } from '../../src/schema/activity.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { makeActivityLog } from '../../src/testing/activity.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { owner, root, test } from '../support/database.ts'

const HOSTILE = `'; drop table x; -- "\\ {}[]$1 :a \u20ac\u{1f600}`
const NO_PARTITION = new Date('1999-12-31T23:59:59Z')

const actionsOf = (lines: readonly { action: string }[]) => lines.map(({ action }) => action)

describe('recordActivities', () => {
  test('records every field, in the order of the entries', async ({ db }) => {
    const scope = await makeScope(db)
    const entry = {
      action: HOSTILE,
      resourceType: HOSTILE,
      resourceId: HOSTILE,
      resourceName: HOSTILE,
      changes: { [HOSTILE]: [HOSTILE, null, 1.5, true] },
      metadata: { a: { b: [] } },
      ip: '2001:db8::1',
      userAgent: HOSTILE,
      requestId: HOSTILE,
      occurredAt: new Date(Date.now() - 5_000),
    }
    const [ids, lines] = await inTenant(db, scope, async (tenant) => [
      await recordActivities(tenant, [entry, { action: 'second' }]),
      await listActivity(tenant),
    ])

    expect(lines).toEqual([
      expect.objectContaining({
        id: ids[1],
        action: 'second',
        metadata: {},
        changes: null,
        ip: null,
      }),
      { ...entry, id: ids[0], organizationId: scope.organizationId, actorId: scope.userId },
    ])
    expect(Math.abs(Number(lines[0]?.occurredAt) - Date.now())).toBeLessThan(60_000)
  })

  test('keeps no secret, of changes, metadata and names', async ({ db }) => {
    const scope = await makeScope(db)
    const secret = 'sk-abcdefghijklmnopqrstuvwxyz'
    await inTenant(db, scope, async (tenant) => {
      await recordActivity(tenant, {
        action: 'key.created',
        resourceType: 'key',
        resourceName: `the key ${secret}`,
        changes: { apiKey: { from: null, to: 'abc' }, note: `was ${secret}`, input_tokens: 5 },
        metadata: { headers: { Authorization: 'Basic abc' } },
      })
      expect(await listActivity(tenant)).toMatchObject([
        {
          resourceName: 'the key [redacted]',
          changes: { apiKey: '[redacted]', note: 'was [redacted]', input_tokens: 5 },
          metadata: { headers: { Authorization: '[redacted]' } },
        },
      ])
    })
  })

  test('names the user in scope as the actor, nobody for a service, and whom a service says', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, (tenant) => makeActivityLog(tenant))
    const lines = await asService(db, scope.organizationId, async (tenant) => {
      await recordActivity(tenant, { action: 'a' })
      await recordActivity(tenant, { action: 'b', actorId: scope.userId })
      return listActivity(tenant)
    })

    const actors = Object.fromEntries(lines.map(({ action, actorId }) => [action, actorId]))
    expect(actors).toEqual({ 'test.happened': scope.userId, a: null, b: scope.userId })
  })

  test('lets a member record in nobody’s name what the member cannot read', async ({ db }) => {
    const scope = await makeScope(db)
    const member = await joinScope(db, scope)
    const seen = await inTenant(db, member, async (tenant) => {
      await recordActivity(tenant, { action: 'system', actorId: null })
      return listActivity(tenant)
    })

    expect(seen).toEqual([])
    expect(actionsOf(await inTenant(db, scope, (tenant) => listActivity(tenant)))).toEqual([
      'system',
    ])
  })

  test('refuses another member as the actor', async ({ db }) => {
    const scope = await makeScope(db)
    const member = await joinScope(db, scope)

    const forged = inTenant(db, member, (tenant) =>
      recordActivity(tenant, { action: 'forged', actorId: scope.userId }),
    )
    await expect(forged).rejects.toThrow(ForbiddenError)
  })

  test('records the same id and time once', async ({ db }) => {
    const scope = await makeScope(db)
    const entry = { action: 'once', id: uuidV7(), occurredAt: new Date() }
    const lines = await inTenant(db, scope, async (tenant) => {
      await recordActivities(tenant, [entry, entry])
      expect(await recordActivity(tenant, entry)).toBe(entry.id)
      return listActivity(tenant)
    })

    expect(lines).toHaveLength(1)
  })

  test('does nothing without entries, and refuses more than 1,000', async ({ db }) => {
    const entries = Array.from({ length: 1_001 }, () => ({ action: 'x' }))
    await inTenant(db, await makeScope(db), async (tenant) => {
      expect(await recordActivities(tenant, [])).toEqual([])
      await expect(recordActivities(tenant, entries)).rejects.toThrow(ValidationError)
      expect(new Set(await recordActivities(tenant, entries.slice(1))).size).toBe(1_000)
    })
  })

  test('says which command makes a missing partition', async ({ db }) => {
    const recorded = inTenant(db, await makeScope(db), (tenant) =>
      recordActivity(tenant, { action: 'x', occurredAt: NO_PARTITION }),
    )
    await expect(recorded).rejects.toThrow(MissingPartitionError)
    await expect(recorded).rejects.toThrow('plinth partitions')
  })

  test('takes indexed texts of the longest kind', async ({ db }) => {
    // Three bytes each in UTF-8, and nothing for a compression to find.
    const long = (length: number) =>
      String.fromCharCode(
        ...Array.from({ length }, () => 0x4e00 + Math.floor(Math.random() * 20_000)),
      )
    const entry = { action: long(200), resourceType: long(100), resourceId: long(500) }
    await inTenant(db, await makeScope(db), async (tenant) => {
      await recordActivity(tenant, entry)
      expect(await listActivity(tenant, { action: entry.action })).toMatchObject([entry])
    })
  })

  test.for<[field: string, entry: Record<string, unknown>]>([
    ['action', {}],
    ['action', { action: '' }],
    ['action', { action: 'a\0b' }],
    ['action', { action: '\ud800' }],
    ['action', { action: 'x'.repeat(10_000_000) }],
    ['actorId', { actorId: 'me' }],
    ['resourceType', { resourceType: '\0' }],
    ['resourceId', { resourceId: '1' }],
    ['resourceId', { resourceType: 'a', resourceId: 'x'.repeat(501) }],
    ['resourceName', { resourceName: '\udfff' }],
    ['userAgent', { userAgent: 'x'.repeat(10_000_000) }],
    ['requestId', { requestId: 7 }],
    ['changes.price', { changes: { price: Number.NaN } }],
    ['changes.price', { changes: { price: Number.POSITIVE_INFINITY } }],
    ['changes', { changes: [1] }],
    ['metadata', { metadata: null }],
    ['metadata.text', { metadata: { text: 'a\0' } }],
    ['metadata', { metadata: { text: 'x'.repeat(10_000_000) } }],
    ['ip', { ip: '10.0.0.0/8' }],
    ['ip', { ip: '256.1.1.1' }],
    ['ip', { ip: 'fe80::1%eth0' }],
    ['occurredAt', { occurredAt: new Date(Number.NaN) }],
    ['occurredAt', { occurredAt: new Date(8.64e15) }],
    ['id', { id: '1', occurredAt: new Date() }],
    ['id', { id: uuidV7() }],
  ])('refuses a bad %s before any SQL', async ([field, bad], { db }) => {
    const entry = { ...(field !== 'action' && { action: 'x' }), ...bad } as ActivityEntry
    await inTenant(db, await makeScope(db), async (tenant) => {
      const refused = recordActivities(tenant, [{ action: 'good' }, entry])
      await expect(refused).rejects.toThrow(ValidationError)
      await expect(refused).rejects.toMatchObject({ argument: `entries[1].${field}` })
      await recordActivity(tenant, { action: 'still usable' })
      expect(actionsOf(await listActivity(tenant))).toEqual(['still usable'])
    })
  })

  test('refuses more text than a batch may hold', async ({ db }) => {
    const metadata = { text: 'x'.repeat(900_000) }
    const entries = Array.from({ length: 72 }, () => ({ action: 'x', metadata }))
    const recorded = inTenant(db, await makeScope(db), (tenant) =>
      recordActivities(tenant, entries),
    )
    await expect(recorded).rejects.toThrow(/64\d{6} characters/)
  })
})

/** Of two months, with four lines to a millisecond; a quarter of them for each thing to filter by. */
const COUNT = 40_000

async function fill(db: Database): Promise<Scope> {
  const scope = await makeScope(db)
  const end = Date.now()
  const lines = Array.from({ length: COUNT }, (_, index) => ({
    action: `action.${index % 4}`,
    actorId: index % 4 === 1 ? scope.userId : uuidV7(),
    resourceType: 'document',
    resourceId: String(index % 4),
    occurredAt: new Date(end - (COUNT - (index - (index % 4))) * 60_000),
  }))
  for (let from = 0; from < COUNT; from += 1_000) {
    await inTenant(db, scope, (tenant) => recordActivities(tenant, lines.slice(from, from + 1_000)))
  }
  await owner.execute(sql`analyze activity.activity_logs`)
  return scope
}

interface Plan {
  'Node Type': string
  'Actual Rows': number
  'Shared Hit Blocks': number
  'Shared Read Blocks': number
  Plans?: Plan[]
}

/** How Postgres runs the query of `listActivity`, in the scope. */
async function explain(tenant: Tenant, list: (tenant: Tenant) => Promise<unknown>) {
  let query: SQL | undefined
  const select = () => {
    const builder = tenant.db.select()
    const from = builder.from.bind(builder)
    return Object.assign(builder, {
      from: (table: typeof activityLogs) => {
        const made = from(table)
        return Object.assign(made, {
          execute: async () => {
            const { sql: text, params } = made.toSQL()
            const chunks = text.split(/\$(\d+)/)
            query = sql.join(
              chunks.map((chunk, at) =>
                at % 2 ? sql`${params[Number(chunk) - 1]}` : sql.raw(chunk),
              ),
            )
            return []
          },
        })
      },
    })
  }
  await list({ ...tenant, db: Object.create(tenant.db, { select: { value: select } }) })
  const [row] = await rowsOf<{ 'QUERY PLAN': [{ Plan: Plan }] | string }>(
    tenant.db,
    sql`explain (analyze, buffers, timing off, format json) ${query}`,
  )
  const answer = row?.['QUERY PLAN'] ?? '[]'
  const [{ Plan: plan }] = typeof answer === 'string' ? JSON.parse(answer) : answer
  // How an empty partition is looked at does not matter.
  const nodes = (node: Plan): string[] =>
    node['Actual Rows'] > 0 ? [node['Node Type'], ...(node.Plans ?? []).flatMap(nodes)] : []
  return {
    nodes: new Set(nodes(plan)),
    blocks: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'],
    text: JSON.stringify(plan),
  }
}

/** The lines of as many pages as hold `count`, or of all. */
async function pages(tenant: Tenant, options: ListActivityOptions, count: number) {
  const lines = await listActivity(tenant, { ...options, limit: 499 })
  for (let page = lines; page.length > 0 && lines.length < count; lines.push(...page)) {
    page = await listActivity(tenant, { ...options, after: lines.at(-1), limit: 499 })
  }
  return lines
}

describe('listActivity', () => {
  let scope: Scope
  beforeAll(async () => {
    scope = await fill(root)
  })

  test('pages through every line once, newest first, where many have one time', async () => {
    const seen = await inTenant(root, scope, (tenant) => pages(tenant, {}, COUNT + 1))

    expect(new Set(seen.map(({ id }) => id)).size).toBe(COUNT)
    const order = seen.map(({ occurredAt, id }) => `${occurredAt.toISOString()} ${id}`)
    expect(order).toEqual(order.toSorted().toReversed())
  })

  test.for<[name: string, index: string, options: (scope: Scope) => object]>([
    ['no filter', 'pkey', () => ({})],
    ['an actor', 'actor_id', ({ userId }) => ({ actorId: userId })],
    ['a resource', 'resource', () => ({ resource: { type: 'document', id: '3' } })],
    ['an action', 'action', () => ({ action: 'action.3' })],
    ['a range', 'pkey', () => ({ since: new Date(0), until: new Date() })],
  ])('finds a page by %s as fast at any depth, without a sort', async ([, index, options]) => {
    await inTenant(root, scope, async (tenant) => {
      const asked = options(scope)
      const seen = await pages(tenant, asked, 9_000)
      const after = seen.at(-1)
      const first = await explain(tenant, (tenant) => listActivity(tenant, asked))
      const last = await explain(tenant, (tenant) => listActivity(tenant, { ...asked, after }))

      for (const { nodes, text } of [first, last]) {
        expect([...nodes].filter((node) => /Sort|Seq|Bitmap/.test(node))).toEqual([])
        // Each partition has the index under a name of its own, which ends like this.
        expect(text).toMatch(index === 'pkey' ? /_pkey"/ : new RegExp(`_${index}[a-z_]*_idx"`))
      }
      expect(last.blocks).toBeLessThan(first.blocks * 1.25 + 8)
    })
  })

  test('filters, and combines what it filters by', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const at = (second: number) => new Date(Date.now() - 60_000 + second * 1_000)
      const [one, two, three] = [at(1), at(2), at(3)]
      await recordActivities(tenant, [
        { action: 'a', resourceType: 'doc', resourceId: '1', occurredAt: one },
        { action: 'b', resourceType: 'doc', resourceId: '2', occurredAt: two },
        { action: 'c', resourceType: 'task', resourceId: '1', occurredAt: three, actorId: null },
      ])
      const found = async (options: Parameters<typeof listActivity>[1]) =>
        actionsOf(await listActivity(tenant, options)).join('')

      expect(await found({})).toBe('cba')
      expect(await found({ limit: 2 })).toBe('cb')
      expect(await found({ actorId: tenant.userId })).toBe('ba')
      expect(await found({ resource: { type: 'doc' } })).toBe('ba')
      expect(await found({ resource: { type: 'doc', id: '1' } })).toBe('a')
      expect(await found({ action: 'b' })).toBe('b')
      expect(await found({ since: two })).toBe('cb')
      expect(await found({ until: two })).toBe('a')
      const after = { occurredAt: three, id: uuidV7() }
      expect(await found({ until: two, after })).toBe('a')
      expect(await found({ until: new Date(), after: { ...after, occurredAt: two } })).toBe('ba')
      expect(await found({ resource: { type: 'doc' }, since: two, actorId: tenant.userId })).toBe(
        'b',
      )
    })
  })

  test('shows members their own lines, admins all, and other organizations none', async ({
    db,
  }) => {
    const scope = await makeScope(db)
    const member = await joinScope(db, scope)
    const admin = await joinScope(db, scope, 'admin')
    for (const who of [scope, member]) {
      await inTenant(db, who, (tenant) => recordActivity(tenant, { action: who.userId }))
    }
    const seen = (who: Scope) =>
      inTenant(db, who, async (tenant) => actionsOf(await listActivity(tenant)))

    expect(await seen(member)).toEqual([member.userId])
    expect((await seen(admin)).toSorted()).toEqual([scope.userId, member.userId].toSorted())
    expect(await seen(await makeScope(db))).toEqual([])
  })

  test.for<[argument: string, options: object]>([
    ['actorId', { actorId: '' }],
    ['actorId', { actorId: null }],
    ['resource.type', { resource: { type: '' } }],
    ['resource.id', { resource: { type: 'a', id: '\0' } }],
    ['action', { action: '\ud800' }],
    ['since', { since: new Date(Number.NaN) }],
    ['until', { until: new Date(8.64e15) }],
    ['after.id', { after: { occurredAt: new Date(), id: 'x' } }],
    ['after.occurredAt', { after: { occurredAt: 'now', id: uuidV7() } }],
    ['limit', { limit: -1 }],
    ['limit', { limit: 0 }],
    ['limit', { limit: null }],
    ['limit', { limit: 501 }],
    ['limit', { limit: 1e18 }],
  ])('refuses a bad %s before any SQL', async ([argument, options], { db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      await expect(listActivity(tenant, options)).rejects.toMatchObject({
        name: 'ValidationError',
        argument,
      })
      expect(await listActivity(tenant)).toEqual([])
    })
  })
})
