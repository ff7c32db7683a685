import { setTimeout as pause } from 'node:timers/promises'
import { eq, type SQL, sql } from 'drizzle-orm'
import { beforeAll, describe, expect } from 'vitest'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import {
  ConnectionError,
  ForbiddenError,
  LockError,
  MissingPartitionError,
  ValidationError,
} from '../../src/errors.ts'
import {
  type ActivityEntry,
  type ListActivityOptions,
  listActivity,
  recordActivities,
  recordActivity,
} from '../../src/queries/activity.ts'
import {
  BufferError,
  type BufferedActivity,
  bufferActivity,
} from '../../src/queries/activity-buffer.ts'
import { archiveOrganization } from '../../src/queries/identity.ts'
import { activityLogs } from '../../src/schema/activity.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { makeActivityLog } from '../../src/testing/activity.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/database.ts'

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

/** The same database, with transactions that fail as `fault` says: before they begin, or after COMMIT. */
function faulty(
  db: Database,
  fault: () => { before?: unknown; after?: unknown } | undefined,
): Database {
  const transaction: Database['transaction'] = async (work, ...config) => {
    const { before, after } = fault() ?? {}
    if (before) throw before
    const result = await db.transaction(work, ...config)
    if (after) throw after
    return result
  }
  return Object.create(db, { transaction: { value: transaction } })
}

/** Collects what a buffer gives up. */
function collect() {
  const failures: { error: unknown; entries: readonly BufferedActivity[] }[] = []
  const onError = (error: unknown, entries: readonly BufferedActivity[]) => {
    failures.push({ error, entries })
  }
  return { failures, onError }
}

const written = ({ organizationId }: Scope, db = root) =>
  asService(db, organizationId, ({ db }) =>
    db.select().from(activityLogs).where(eq(activityLogs.organizationId, organizationId)),
  )

const never = { maxDelayMs: 3_600_000 }

describe('bufferActivity', () => {
  test('writes when the batch is full, and not before', async () => {
    const scope = await makeScope(root)
    await using buffer = bufferActivity(root, { ...never, ...collect(), maxSize: 3 })
    buffer.record(scope, { action: '1' })
    buffer.record(scope, { action: '2' })
    await pause(50)
    expect(await written(scope)).toEqual([])
    buffer.record(scope, { action: '3' })

    await expect.poll(() => buffer.pending).toBe(0)
    expect(await written(scope)).toHaveLength(3)
  })

  test('writes after the delay', async () => {
    const scope = await makeScope(root)
    await using buffer = bufferActivity(root, { ...collect(), maxDelayMs: 50 })
    buffer.record(scope, { action: '1' })
    await expect.poll(() => buffer.pending).toBe(0)
    buffer.record(scope, { action: '2' })
    await expect.poll(() => buffer.pending).toBe(0)

    expect(await written(scope)).toHaveLength(2)
  })

  test('writes when it is closed, and then takes no more', async () => {
    const scope = await makeScope(root)
    const buffer = bufferActivity(root, { ...never, ...collect() })
    buffer.record(scope, { action: '1' })
    await Promise.all([buffer.close(), buffer.close()])

    expect(await written(scope)).toHaveLength(1)
    expect(() => buffer.record(scope, { action: '2' })).toThrow(
      expect.objectContaining({ name: 'BufferError', reason: 'closed' }),
    )
  })

  test('keeps the order, the actor and the state of the time at which it was told', async () => {
    const scope = await makeScope(root)
    const before = Date.now()
    const metadata = { state: 'then' }
    await using buffer = bufferActivity(root, { ...never, ...collect() })
    const ids = [
      buffer.record(scope, { action: 'first', metadata }),
      buffer.record(scope, { action: 'second', actorId: null }),
      buffer.record({ organizationId: scope.organizationId }, { action: 'third' }),
    ]
    const after = Date.now()
    metadata.state = 'now'
    await pause(20)
    await buffer.flush()

    const lines = await inTenant(root, scope, (tenant) => listActivity(tenant))
    expect(lines.map(({ id }) => id)).toEqual(ids.toReversed())
    expect(lines.map(({ actorId }) => actorId)).toEqual([null, null, scope.userId])
    expect(lines[2]?.metadata).toEqual({ state: 'then' })
    for (const { occurredAt } of lines) {
      expect(occurredAt.getTime()).toBeGreaterThanOrEqual(before)
      expect(occurredAt.getTime()).toBeLessThanOrEqual(after)
    }
  })

  test('writes each organization into its own log, one transaction at a time', async () => {
    const scopes = [await makeScope(root), await makeScope(root)] as const
    let [open, most, count] = [0, 0, 0]
    const transaction: Database['transaction'] = async (...args) => {
      open += 1
      count += 1
      most = Math.max(most, open)
      return root.transaction(...args).finally(() => {
        open -= 1
      })
    }
    const db: Database = Object.create(root, { transaction: { value: transaction } })
    await using buffer = bufferActivity(db, { ...never, ...collect() })
    for (let n = 0; n < 10; n += 1) {
      for (const scope of scopes) buffer.record(scope, { action: scope.organizationId })
    }
    await Promise.all([buffer.flush(), buffer.flush()])

    expect({ most, count }).toEqual({ most: 1, count: 2 })
    for (const scope of scopes) {
      expect(actionsOf(await written(scope))).toEqual(Array(10).fill(scope.organizationId))
    }
  })

  test('validates at once, and is full at maxPending', async () => {
    const scope = await makeScope(root)
    await using buffer = bufferActivity(root, { ...never, ...collect(), maxSize: 2, maxPending: 2 })
    expect(() => buffer.record(scope, { action: 'a\0' })).toThrow(ValidationError)
    expect(() => buffer.record({ organizationId: '' }, { action: 'a' })).toThrow(ValidationError)
    buffer.record(scope, { action: '1' })
    buffer.record(scope, { action: '2' })

    expect(() => buffer.record(scope, { action: '3' })).toThrow(BufferError)
    await buffer.flush()
    buffer.record(scope, { action: '3' })
    await buffer.flush()
    expect(await written(scope)).toHaveLength(3)
  })

  test('tries again what a lock or a lost connection kept back, and writes it once', async () => {
    const scope = await makeScope(root)
    const { failures, onError } = collect()
    const faults = [
      { before: new LockError('deadlock') },
      { before: new ConnectionError('lost') },
      { after: new ConnectionError('lost', { committed: 'unknown' }) },
    ]
    const db = faulty(root, () => faults.shift())
    await using buffer = bufferActivity(db, { onError, maxDelayMs: 10 })
    for (let n = 0; n < 5; n += 1) buffer.record(scope, { action: String(n) })

    await expect.poll(() => buffer.pending, { timeout: 5_000 }).toBe(0)
    expect(faults).toEqual([])
    expect(failures).toEqual([])
    expect(actionsOf(await written(scope)).toSorted()).toEqual(['0', '1', '2', '3', '4'])
  })

  test('tells who flushes of a lost connection, and keeps the lines', async () => {
    const scope = await makeScope(root)
    const faults = [{ before: new ConnectionError('lost') }]
    await using buffer = bufferActivity(
      faulty(root, () => faults.shift()),
      { ...never, ...collect() },
    )
    buffer.record(scope, { action: '1' })

    await expect(buffer.flush()).rejects.toThrow(ConnectionError)
    expect(buffer.pending).toBe(1)
    await buffer.flush()
    expect(await written(scope)).toHaveLength(1)
  })

  test('waits longer each time while nothing answers, however much is recorded', async () => {
    const scope = await makeScope(root)
    let attempts = 0
    const db = faulty(root, () => {
      attempts += 1
      return { before: new ConnectionError('down') }
    })
    const { onError, failures } = collect()
    const buffer = bufferActivity(db, { onError, maxSize: 1, maxDelayMs: 1, closeTimeoutMs: 50 })
    const end = Date.now() + 650
    while (Date.now() < end) {
      buffer.record(scope, { action: 'x' })
      await pause(5)
    }
    // At 0, 100, 300 ms, and the next would be at 700.
    expect(attempts).toBeGreaterThanOrEqual(2)
    expect(attempts).toBeLessThanOrEqual(4)
    const { pending } = buffer
    await buffer.close()
    expect(failures[0]?.entries).toHaveLength(pending)
  })

  test('hands over the lines of an archived organization, and writes those of the others', async () => {
    const [closed, open] = [await makeScope(root), await makeScope(root)]
    const { failures, onError } = collect()
    await using buffer = bufferActivity(root, { ...never, onError })
    const id = buffer.record(closed, { action: 'late' })
    buffer.record(open, { action: 'good' })
    await archiveOrganization(root, closed.organizationId)
    await buffer.flush()

    expect(buffer.pending).toBe(0)
    expect(failures).toMatchObject([
      {
        error: { name: 'ForbiddenError', reason: 'organization_archived' },
        entries: [
          { id, action: 'late', organizationId: closed.organizationId, actorId: closed.userId },
        ],
      },
    ])
    expect(actionsOf(await written(open))).toEqual(['good'])
  })

  test('hands over the lines of a missing month, and writes the rest of the batch', async () => {
    const scope = await makeScope(root)
    const { failures, onError } = collect()
    await using buffer = bufferActivity(root, { ...never, onError })
    buffer.record(scope, { action: '1' })
    buffer.record(scope, { action: 'old', occurredAt: NO_PARTITION })
    buffer.record(scope, { action: '2' })
    await buffer.flush()

    expect(failures).toMatchObject([
      { error: { name: 'MissingPartitionError' }, entries: [{ action: 'old' }] },
    ])
    expect(actionsOf(await written(scope)).toSorted()).toEqual(['1', '2'])
  })

  test('closes in bounded time when nothing answers, and hands over the rest', async () => {
    const scope = await makeScope(root)
    const { failures, onError } = collect()
    let hang = true
    const transaction: Database['transaction'] = async (...args) => {
      while (hang) await pause(20)
      return root.transaction(...args)
    }
    const db: Database = Object.create(root, { transaction: { value: transaction } })
    const buffer = bufferActivity(db, { ...never, onError, closeTimeoutMs: 200 })
    const id = buffer.record(scope, { action: 'x' })
    const start = Date.now()
    await buffer.close()

    expect(Date.now() - start).toBeLessThan(2_000)
    expect(failures).toMatchObject([{ error: { name: 'TimeoutError' }, entries: [{ id }] }])
    // What was under way is written after all, and not reported again; nor is it written twice.
    hang = false
    await expect.poll(() => written(scope)).toHaveLength(1)
    await inTenant(root, scope, (tenant) => recordActivities(tenant, failures[0]?.entries ?? []))
    expect(await written(scope)).toHaveLength(1)
    expect(failures).toHaveLength(1)
  })

  test.for([{ maxSize: 0 }, { maxDelayMs: 0 }, { maxPending: 99 }, { closeTimeoutMs: 1e18 }])(
    'refuses %o',
    (options) => {
      expect(() => bufferActivity(root, { ...collect(), ...options })).toThrow(ValidationError)
    },
  )

  test.skipIf(!url)(
    'writes what was recorded, once, while its connections are killed',
    async () => {
      const scopes = [await makeScope(root), await makeScope(root), await makeScope(root)]
      const db = await connect(url ?? '', { maxConnections: 2 })
      const backends = new Set<number>()
      const lost: unknown[] = []
      // Tells the backend of each transaction, so that those of other tests are left alone.
      const transaction: Database['transaction'] = (work, ...config) =>
        db
          .transaction(
            async (tx) => {
              const [row] = await rowsOf<{ pid: number }>(tx, sql`select pg_backend_pid() as pid`)
              if (row) backends.add(row.pid)
              return work(tx)
            },
            ...config,
          )
          .catch((error) => {
            lost.push(error)
            throw error
          })
      const watched: Database = Object.create(db, { transaction: { value: transaction } })
      const { failures, onError } = collect()
      const buffer = bufferActivity(watched, {
        onError,
        maxSize: 20,
        maxDelayMs: 5,
        maxPending: 100_000,
        closeTimeoutMs: 20_000,
      })

      const recorded: string[] = []
      const end = Date.now() + 3_000
      let killed = 0
      while (Date.now() < end) {
        for (const scope of scopes) {
          for (let n = 0; n < 10; n += 1) recorded.push(buffer.record(scope, { action: 'x' }))
        }
        await pause(Math.random() * 10)
        const [pid] = backends
        if (pid && Math.random() < 0.1) {
          backends.delete(pid)
          await owner.execute(sql`select pg_terminate_backend(${pid}::int)`)
          killed += 1
        }
      }
      await buffer.close()
      await db.close()

      const lines = (await Promise.all(scopes.map((scope) => written(scope)))).flat()
      expect(failures).toEqual([])
      expect(killed).toBeGreaterThan(5)
      expect(lost.length).toBeGreaterThan(0)
      expect(lines.map(({ id }) => id).toSorted()).toEqual(recorded.toSorted())
    },
  )
})
