import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { connect, rowsOf } from '../../src/database.ts'
import { ForbiddenError, ValidationError } from '../../src/errors.ts'
import { ensurePartitions, listPartitions } from '../../src/lifecycle/partitions.ts'
import { listActivity, recordActivity } from '../../src/queries/activity.ts'
import { inTenant } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/own-database.ts'

const month = (text: string) => new Date(`${text}-01T00:00:00Z`)

describe('ensurePartitions', () => {
  test('makes the missing months of every table, and then none', async ({ db }) => {
    const range = { from: new Date('2031-03-31T23:59:59Z'), to: month('2031-05') }
    const made = await ensurePartitions(db, range)

    expect(made).toContainEqual({ table: 'activity.activity_logs', made: 3 })
    expect(made).toContainEqual({ table: 'costs.usage_events', made: 3 })
    expect((await ensurePartitions(db, range)).every((table) => table.made === 0)).toBe(true)
    const wider = await ensurePartitions(db, { from: month('2031-02'), to: month('2031-06') })
    expect(wider.map((table) => table.made)).toEqual(made.map(() => 2))
  })

  test('knows every table of the catalog that is partitioned by range', async ({ db }) => {
    const rows = await rowsOf<{ table: string }>(
      db,
      sql`select partrelid::regclass::text as "table" from pg_partitioned_table
        where partstrat = 'r' order by 1`,
    )
    const listed = await listPartitions(db)
    expect(listed.map(({ table }) => table)).toEqual(rows.map(({ table }) => table))
  })

  test('covers this month and the twelve after it by default', async ({ db }) => {
    await ensurePartitions(db)
    const now = new Date()
    const ahead = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 13, 1))
    for (const { from, to, gaps } of await listPartitions(db)) {
      expect(from?.getTime()).toBeLessThanOrEqual(now.getTime())
      expect(to?.getTime()).toBeGreaterThanOrEqual(ahead.getTime())
      expect(gaps).toEqual([])
    }
  })

  test('makes rows of the month possible, up to its last millisecond in UTC', async ({ db }) => {
    await db.execute(sql`set local timezone = 'America/St_Johns'`)
    await ensurePartitions(db, { from: month('2032-01'), to: month('2032-01') })
    await inTenant(db, await makeScope(db), async (tenant) => {
      for (const time of ['2032-01-01T00:00:00.000Z', '2032-01-31T23:59:59.999Z']) {
        await recordActivity(tenant, { action: 'x', occurredAt: new Date(time) })
      }
      expect(await listActivity(tenant)).toHaveLength(2)
    })
  })

  test.for([
    ['from', { from: new Date(Number.NaN) }],
    ['to', { from: month('2030-02'), to: month('2030-01') }],
    ['to', { to: month('2001-01') }],
    ['to', { from: month('2030-01'), to: month('2080-02') }],
    ['to', { to: new Date(8.64e15) }],
  ] as const)('refuses a bad %s', async ([argument, options], { db }) => {
    const refused = ensurePartitions(db, options)
    await expect(refused).rejects.toThrow(ValidationError)
    await expect(refused).rejects.toMatchObject({ argument })
  })

  test.skipIf(!url)('is refused inside a scope', async ({ db }) => {
    const scoped = inTenant(db, await makeScope(db), (tenant) => ensurePartitions(tenant.db))
    await expect(scoped).rejects.toThrow(ForbiddenError)
  })

  test.skipIf(!url)('makes each month once for two at once', async () => {
    const range = { from: month('2040-01'), to: month('2041-12') }
    const other = await connect(url ?? '', { maxConnections: 2 })
    try {
      const results = await Promise.all([
        ensurePartitions(root, range),
        ensurePartitions(root, range),
        ensurePartitions(other, range),
      ])
      for (const table of ['activity.activity_logs', 'costs.usage_events']) {
        const made = results.flat().filter((result) => result.table === table)
        expect(made.reduce((sum, result) => sum + result.made, 0)).toBe(24)
      }
    } finally {
      await other.close()
    }
  })

  test.skipIf(!url)('lets a writer finish, and no writer wait for long', async () => {
    let finish = () => {}
    let writer: Promise<unknown> | undefined
    await new Promise<void>((locked) => {
      writer = owner.transaction(async (tx) => {
        await tx.execute(sql`lock table activity.activity_logs in row exclusive mode`)
        locked()
        await new Promise<void>((resolve) => {
          finish = resolve
        })
      })
    })
    const ensured = ensurePartitions(root, { from: month('2045-01'), to: month('2045-01') })
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    // Meanwhile a second writer gets in between two attempts.
    const start = Date.now()
    const scope = await makeScope(root)
    await inTenant(root, scope, (tenant) => recordActivity(tenant, { action: 'x' }))
    expect(Date.now() - start).toBeLessThan(1_500)
    finish()
    await writer

    expect(await ensured).toContainEqual({ table: 'activity.activity_logs', made: 1 })
  })
})

describe('listPartitions', () => {
  test('tells from when to when, and what is missing in between', async ({ db }) => {
    await ensurePartitions(db, { from: month('2050-01'), to: month('2050-02') })
    await ensurePartitions(db, { from: month('2050-05'), to: month('2050-05') })

    const [logs] = await listPartitions(db)
    expect(logs).toMatchObject({ table: 'activity.activity_logs', to: month('2050-06') })
    expect(logs?.gaps.at(-1)).toEqual({ from: month('2050-03'), to: month('2050-05') })
  })
})
