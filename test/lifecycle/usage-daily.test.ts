import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect } from 'vitest'
import { connect, type Database, only, rowsOf } from '../../src/database.ts'
import { ForbiddenError, LockError } from '../../src/errors.ts'
import { rollUpUsage } from '../../src/lifecycle/usage-daily.ts'
import {
  type RecordUsageOptions,
  recordUsage,
  recordUsages,
  type Spend,
  type SpendBy,
  type SpendOptions,
  spend,
  topCosts,
} from '../../src/queries/costs.ts'
import { archiveOrganization } from '../../src/queries/identity.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { rollback } from '../../src/testing/database.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { owner, root, test, url } from '../support/database.ts'

const DAY = 86_400_000
const HOUR = 3_600_000
/** Midnight of UTC, in months that have a partition whenever the tests run. */
const start = Date.UTC(2026, 2, 25)
const until = new Date(start + 30 * DAY)
const since = new Date(start - 30 * DAY)
const call = { provider: 'test', model: 'a', operation: 'chat', inputTokens: 10 }

async function makeSpender(db: Database): Promise<Scope> {
  await rowsOf(
    db,
    sql`select partitions.create_months('costs', 'usage_events', '2026-01-01', '2026-12-01')`,
  )
  return makeScope(db)
}

const line = (offset: number, more: Partial<RecordUsageOptions> = {}): RecordUsageOptions => ({
  ...{ ...call, occurredAt: new Date(start + offset), costNanos: 1n, status: 'priced' },
  ...more,
})

const record = (db: Database, scope: Scope, usages: RecordUsageOptions[]) =>
  asService(db, scope.organizationId, (tenant) => recordUsages(tenant, usages))

const rollUp = (db: Database, { organizationId }: Scope) =>
  asService(db, organizationId, (tenant) => rollUpUsage(tenant))

/** Closes a ledger as `rollUpUsage` does, but at any time, which only the owner may. */
const closeAt = (db: Database, { organizationId }: Scope, time: number) =>
  rowsOf(db, sql`select costs.close_usage_at(${organizationId}, ${new Date(time).toISOString()})`)

/** Rolls up what is closed, so many days at most. Returns the lines of each. */
const rollUpDays = (db: Database, { organizationId }: Scope, days = Number.POSITIVE_INFINITY) =>
  asService(db, organizationId, async (tenant) => {
    const events: number[] = []
    while (events.length < days) {
      const day = await rowsOf<{ events: string }>(
        tenant.db,
        sql`select events::text from costs.roll_up_usage_day()`,
      )
      if (!day[0]) break
      events.push(Number(day[0].events))
    }
    return events
  })

/** What a ledger is closed up to now, as the database's clock says. */
const thisHour = async (db: Database) =>
  new Date(
    only(
      await rowsOf<{ hour: string }>(
        db,
        sql`select date_trunc('hour', clock_timestamp() - interval '5 minutes', 'UTC') as hour`,
      ),
    ).hour,
  )

/** A line that no other one tells of, so that a sum which reads it is another one. */
const hide = (db: Database, { organizationId }: Scope, offset: number, costNanos: number) =>
  asService(db, organizationId, (tenant) =>
    rowsOf(
      tenant.db,
      sql`insert into costs.usage_events (organization_id, id, provider, model, operation, status, cost_nanos, occurred_at)
        values (${organizationId}, ${uuidV7()}, 'test', 'a', 'chat', 'priced', ${costNanos}, ${new Date(start + offset)})`,
    ),
  )

/** What `spend` answers without any roll-up: the ledger, summed up by hand. */
async function liveSums(
  tenant: Tenant,
  { since, until, userId, by, period, timeZone = 'UTC' }: SpendOptions<SpendBy, 'day'>,
) {
  const keys = {
    user: [sql`user_id`],
    model: [sql`provider`, sql`model`],
    endpoint: [sql`endpoint`],
    project: [sql`project_id`],
  }
  const columns = [
    ...(period ? [sql`date_trunc(${period}, occurred_at, ${timeZone}::text)`] : []),
    ...(by ? keys[by] : []),
  ]
  const places = sql.raw(columns.map((_, at) => at + 1).join(', '))
  const rows = await rowsOf<Record<string, unknown>>(
    tenant.db,
    sql`select ${sql.join(
      columns.map((column, at) => sql`${column} as ${sql.identifier(`key${at}`)}, `),
      sql``,
    )} coalesce(sum(cost_nanos), 0)::text as cost, (count(*) filter (where adjusts_id is null))::text as events,
      sum(input_tokens + output_tokens + embedding_tokens)::text as tokens,
      (count(*) filter (where status = 'unpriced') - count(*) filter (where adjusts_status = 'unpriced'))::text as unpriced
    from costs.usage_events where organization_id = ${tenant.organizationId}
      and occurred_at >= ${since} and occurred_at < ${until ?? new Date(Date.UTC(2100))}
      ${userId ? sql`and user_id = ${userId}` : sql``}
    ${columns.length > 0 ? sql`group by ${places}` : sql`having count(*) > 0`}`,
  )
  return rows.map(({ cost, events, tokens, unpriced, ...keys }) => {
    const values = Object.entries(keys).map(([name, value]) =>
      period && name === 'key0' ? new Date(String(value)).toISOString() : value,
    )
    return [...values, cost, events, tokens, unpriced].join(' ')
  })
}

/** The same of what `spend` answers. */
const shown = (rows: (Spend & { period?: Date })[]) =>
  rows.map(({ period, costNanos, events, tokens, unpriced, ...keys }) => {
    const values = [...(period ? [period.toISOString()] : []), ...Object.values(keys)]
    return [...values, costNanos, events, tokens, unpriced].join(' ')
  })

const tablesOf = async (db: Database, { organizationId }: Scope) => {
  const { rolled, ...counts } = only(
    await rowsOf<{ daily: number; stale: number; rolled: string | null }>(
      db,
      sql`select (select count(*)::integer from costs.usage_daily where organization_id = ${organizationId}) as daily,
        (select count(*)::integer from costs.usage_stale_days where organization_id = ${organizationId}) as stale,
        (select rolled_at from costs.usage_roll_ups where organization_id = ${organizationId}) as rolled`,
    ),
  )
  return { ...counts, rolled: rolled === null ? null : new Date(rolled) }
}

const seen = (db: Database, scope: Scope) =>
  asService(db, scope.organizationId, (tenant) => tablesOf(tenant.db, scope))

describe('rollUpUsage', () => {
  test('sums up each day before today once, and again when it was written into', async ({ db }) => {
    const [scope, hour] = [await makeSpender(db), await thisHour(db)]
    await record(db, scope, [line(0), line(DAY - 1), line(DAY), line(9 * DAY, { model: 'b' })])
    await asService(db, scope.organizationId, (tenant) => recordUsage(tenant, call))

    const other = await makeSpender(db)
    await record(db, other, [line(0)])
    expect(await rollUp(db, scope)).toMatchObject({ organizations: 1, days: 3, events: 4 })
    expect(await seen(db, other)).toMatchObject({ daily: 0, rolled: null })
    expect(await rollUp(db, scope)).toMatchObject({ days: 0 })
    const { rolled, ...counts } = await seen(db, scope)
    expect(counts).toEqual({ daily: 3, stale: 0 })
    expect([hour, await thisHour(db)]).toContainEqual(rolled)

    await record(db, scope, [line(9 * DAY), line(10 * DAY), line(10 * DAY)])
    await record(db, scope, [line(-9 * DAY)])
    expect(await seen(db, scope)).toMatchObject({ daily: 3, stale: 3 })
    expect(await rollUp(db, scope)).toMatchObject({ days: 3, events: 5 })
    expect(await seen(db, scope)).toMatchObject({ daily: 6, stale: 0 })
  })

  test('goes up to this hour', async ({ db }) => {
    const [scope, hour] = [await makeSpender(db), (await thisHour(db)).getTime()]
    const times = [hour - HOUR, hour - 1, hour, Date.now()]
    const lines = times.map((time) => line(time - start))
    await record(db, scope, lines)
    const { events } = await rollUp(db, scope)
    const rolled = (await seen(db, scope)).rolled?.getTime() ?? 0
    expect(rolled).toBeGreaterThanOrEqual(hour)
    expect(events).toBe(times.filter((time) => time < rolled).length)
    expect(await rollUp(db, scope)).toMatchObject({ days: 0 })
    const range = { since: new Date(hour - DAY), until: new Date(hour + DAY) }
    const [sum] = await asService(db, scope.organizationId, (tenant) => spend(tenant, range))
    expect(sum).toMatchObject({ events: 4, costNanos: 4n })
  })

  test('sums up a day that goes on as far as it is over, and more of it later', async () => {
    await rollback(owner, async (db) => {
      const scope = await makeSpender(db)
      const cost = async (to: number) => {
        const range = { since: new Date(start), until: new Date(start + to) }
        const [sum] = await asService(db, scope.organizationId, (tenant) => spend(tenant, range))
        return sum?.costNanos
      }
      await record(db, scope, [line(HOUR), line(5 * HOUR), line(13 * HOUR)])
      await closeAt(db, scope, start + 6 * HOUR)
      expect(await rollUpDays(db, scope)).toEqual([2])
      const rolled = new Date(start + 6 * HOUR)
      expect(await seen(db, scope)).toEqual({ daily: 1, stale: 0, rolled })

      // What is rolled up is read from there, if all of it is asked for, and the rest from the ledger.
      await hide(db, scope, 2 * HOUR, 10)
      await hide(db, scope, 7 * HOUR, 100)
      expect(await cost(6 * HOUR)).toBe(2n)
      expect(await cost(8 * HOUR)).toBe(102n)
      expect(await cost(DAY)).toBe(103n)
      expect(await cost(6 * HOUR - 1)).toBe(12n)

      // Nothing new: nothing is summed up, and hence what is hidden stays so.
      await closeAt(db, scope, start + 7 * HOUR)
      expect(await rollUpDays(db, scope)).toEqual([])
      expect(await seen(db, scope)).toMatchObject({ rolled: new Date(start + 7 * HOUR) })
      expect(await cost(DAY)).toBe(103n)

      // A line is late by what is closed, and not by what is rolled up.
      await closeAt(db, scope, start + 12 * HOUR)
      await record(db, scope, [line(12 * HOUR)])
      expect(await seen(db, scope)).toMatchObject({ stale: 0 })
      await record(db, scope, [line(12 * HOUR - 1)])
      expect(await seen(db, scope)).toMatchObject({ stale: 1 })
      expect(await cost(DAY)).toBe(115n)
      expect(await rollUpDays(db, scope)).toEqual([5])

      await closeAt(db, scope, start + 30 * HOUR)
      await closeAt(db, scope, start + 20 * HOUR)
      expect(await rollUpDays(db, scope)).toEqual([7])
      expect(await seen(db, scope)).toEqual({
        ...{ daily: 1, stale: 0, rolled: new Date(start + 30 * HOUR) },
      })
      expect(await cost(DAY)).toBe(115n)
    })
  })

  test('asks for days of UTC in whatever time zone the session is', async ({ db }) => {
    const scope = await makeSpender(db)
    const summerTime = Date.UTC(2026, 2, 29) - start
    await record(db, scope, [line(summerTime), line(summerTime + HOUR)])
    await rollUp(db, scope)
    await rowsOf(db, sql`select set_config('TimeZone', 'Europe/Berlin', true)`)
    const range = { since: new Date(start + summerTime + HOUR / 2), until }
    const [sum] = await asService(db, scope.organizationId, (tenant) => spend(tenant, range))
    expect(sum).toMatchObject({ events: 1 })
  })

  test('is what spend reads', async ({ db }) => {
    const scope = await makeSpender(db)
    await record(db, scope, [line(0), line(DAY)])
    await rollUp(db, scope)
    const sum = () =>
      asService(db, scope.organizationId, (tenant) => spend(tenant, { since, until }))
    expect(await sum()).toMatchObject([{ costNanos: 2n, events: 2 }])

    await hide(db, scope, 0, 8)
    expect(await sum()).toMatchObject([{ costNanos: 2n, events: 2 }])
    await record(db, scope, [line(1, { costNanos: 100n })])
    expect(await sum()).toMatchObject([{ costNanos: 110n, events: 4 }])
  })

  test('keeps sums beyond bigint, of cost and of tokens', async ({ db }) => {
    const scope = await makeSpender(db)
    const huge = 2n ** 63n - 1n
    const inputTokens = Number.MAX_SAFE_INTEGER
    const lines = [1, 2, 3].map((at) => line(at, { costNanos: huge, inputTokens }))
    await record(db, scope, [...lines, line(4), line(5)])

    await rollUp(db, scope)

    expect(await seen(db, scope)).toMatchObject({ daily: 4 })
    const [sum] = await asService(db, scope.organizationId, (tenant) =>
      spend(tenant, { since, until }),
    )
    expect(sum).toMatchObject({ costNanos: 3n * huge + 2n, events: 5 })
  })

  test('is for admins and services, and its rows are for members their own', async ({ db }) => {
    const scope = await makeSpender(db)
    const [member, admin] = [await joinScope(db, scope), await joinScope(db, scope, 'admin')]
    await record(db, scope, [line(0, { userId: member.userId }), line(0, { costNanos: 5n })])

    const refused = db.transaction((tx) => inTenant(tx, member, (tenant) => rollUpUsage(tenant)))
    await expect(refused).rejects.toBeInstanceOf(ForbiddenError)
    expect(await inTenant(db, admin, (tenant) => rollUpUsage(tenant))).toMatchObject({ days: 1 })

    const costs = async (as: Scope, userId?: string) =>
      (await inTenant(db, as, (tenant) => spend(tenant, { since, until, userId })))[0]?.costNanos
    expect([await costs(member), await costs(admin)]).toEqual([1n, 6n])
    expect(await costs(admin, member.userId)).toBe(1n)
    const write = db.transaction((tx) =>
      inTenant(tx, admin, (tenant) => rowsOf(tenant.db, sql`delete from costs.usage_daily`)),
    )
    await expect(write).rejects.toBeInstanceOf(ForbiddenError)
  })

  test('refuses a snapshot that may be older than its lock', async () => {
    const work = root.transaction(
      async (tx) => {
        const scope = await makeScope(tx)
        await rollUp(tx, scope)
      },
      { isolationLevel: 'repeatable read' },
    )
    await expect(work).rejects.toThrow(/read committed/)
  })

  test('goes through all organizations that are due, and says how far it is', async ({ db }) => {
    const [one, other, idle, gone, begun] = [
      await makeSpender(db),
      await makeScope(db),
      await makeScope(db),
      await makeScope(db),
      await makeScope(db),
    ]
    for (const scope of [one, other, gone]) await record(db, scope, [line(0), line(DAY)])
    await archiveOrganization(db, gone.organizationId)
    await asService(db, idle.organizationId, (tenant) => recordUsage(tenant, call))
    await record(db, begun, [line((await thisHour(db)).getTime() - 1 - start)])
    const steps: number[] = []

    const report = await rollUpUsage(db, { onProgress: ({ days }) => steps.push(days) })

    // Others may be there on a server.
    expect(report.organizations).toBeGreaterThanOrEqual(3)
    expect(steps).toEqual(Array.from({ length: report.days }, (_, at) => at + 1))
    expect(await seen(db, one)).toMatchObject({ daily: 2 })
    expect(await seen(db, other)).toMatchObject({ daily: 2 })
    expect(await seen(db, begun)).toMatchObject({ daily: 1 })
    expect(await seen(db, idle)).toMatchObject({ rolled: null })
    expect(await rollUpUsage(db)).toMatchObject({ organizations: 0 })
    const stopped = rollUpUsage(db, { signal: AbortSignal.abort(new Error('enough')) })
    expect(await stopped).toMatchObject({ organizations: 0 })
    await record(db, one, [line(0)])
    const ended = rollUpUsage(db, { signal: AbortSignal.abort(new Error('enough')) })
    await expect(ended).rejects.toThrow('enough')
  })
})

const offset = fc.oneof(
  fc.integer({ min: -8 * DAY, max: 12 * DAY }),
  // Near a midnight of some zone.
  fc
    .tuple(fc.integer({ min: -3, max: 9 }), fc.constantFrom(-7_200_000, -20_700_000, -1, 0, 1))
    .map(([day, ms]) => day * DAY + ms),
)
/** Or near the time at which the ledger was closed last. */
const place = fc.oneof(
  fc.record({ offset }),
  fc.record({ near: fc.integer({ min: -DAY, max: DAY }) }),
  fc.record({ near: fc.constantFrom(-1, 0, 1) }),
)
const usage = fc.record({
  place,
  user: fc.integer({ min: 0, max: 2 }),
  model: fc.constantFrom('a', 'b'),
  endpoint: fc.constantFrom(null, '/x'),
  project: fc.constantFrom(null, uuidV7()),
  costNanos: fc.option(fc.bigInt({ min: 0n, max: 10n ** 13n }), { nil: undefined }),
})
const question = fc.record({
  since: offset,
  until: fc.option(place, { nil: undefined }),
  period: fc.constantFrom(undefined, 'hour', 'day', 'month'),
  timeZone: fc.constantFrom('UTC', 'Europe/Berlin', 'Asia/Kathmandu', 'America/St_Johns'),
  by: fc.constantFrom(undefined, 'user', 'model', 'endpoint', 'project'),
  mine: fc.boolean(),
  asMember: fc.boolean(),
})
/** Of the session. */
const zone = fc.constantFrom('UTC', 'Europe/Berlin')
const step = fc.oneof(
  fc.record({ lines: fc.array(usage, { minLength: 1, maxLength: 12 }) }),
  fc.constant('roll up'),
  // Some of what is closed is rolled up later, or never.
  fc.record({ closing: offset, days: fc.constantFrom(0, 1, 99) }),
  fc.record({ closing: offset, days: fc.constantFrom(0, 1, 99) }),
  question,
  question,
)

test('whatever is asked, the answer is what the ledger says', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 20 }), zone, async (steps, zone) => {
      await rollback(owner, async (db) => {
        await rowsOf(db, sql`select set_config('TimeZone', ${zone}, true)`)
        const scope = await makeSpender(db)
        let closed = 0
        const offsetOf = (it: { offset: number } | { near: number }) =>
          'near' in it ? closed + it.near : it.offset
        const member = await joinScope(db, scope)
        const users = [null, scope.userId, member.userId]
        for (const it of steps) {
          if (it === 'roll up') await rollUp(db, scope)
          else if (typeof it === 'string') continue
          else if ('closing' in it) {
            closed = it.closing
            await closeAt(db, scope, start + closed)
            await rollUpDays(db, scope, it.days)
          } else if ('lines' in it) {
            const lines = it.lines.map(({ place, user, project, ...more }) =>
              line(offsetOf(place), { ...more, userId: users[user], projectId: project }),
            )
            await record(db, scope, lines)
          } else {
            const { period, by, timeZone, mine, asMember } = it
            const options = {
              since: new Date(start + it.since),
              ...(it.until && { until: new Date(start + offsetOf(it.until)) }),
              // The one type stands for all of them.
              ...{ period: period as 'day' | undefined, by, timeZone },
              ...(mine && { userId: member.userId }),
            }
            await inTenant(db, asMember ? member : scope, async (tenant) => {
              const answer = shown(await spend(tenant, options))
              expect(answer.toSorted()).toEqual((await liveSums(tenant, options)).toSorted())
              if (!by) return
              const top = shown(await topCosts(tenant, { ...options, by }))
              const live = await liveSums(tenant, { ...options, period: undefined })
              expect(top.toSorted()).toEqual(live.toSorted())
            })
          }
        }
      })
    }),
    { numRuns: 60 },
  )
}, 120_000)

describe.skipIf(!url)('with writers beside it', () => {
  const yesterday = () => new Date(Date.now() - DAY)

  test('waits for who writes without a mark, shortly, and tries again', async () => {
    const scope = await makeScope(root)
    let [isOpen, report] = [false, Promise.resolve<unknown>(undefined)]
    await asService(root, scope.organizationId, async (tenant) => {
      // As whoever has begun before it was closed.
      await rowsOf(tenant.db, sql`select costs.open_ledger()`)
      await rowsOf(
        tenant.db,
        sql`insert into costs.usage_events (organization_id, id, provider, model, operation, status, cost_nanos, occurred_at)
          values (${scope.organizationId}, ${uuidV7()}, 'test', 'a', 'chat', 'priced', 8, ${yesterday()})`,
      )
      isOpen = true
      const begun = performance.now()
      await expect(rollUp(root, scope)).rejects.toBeInstanceOf(LockError)
      expect(performance.now() - begun).toBeLessThan(5_000)
      report = rollUpUsage({ db: root, ...scope, userId: undefined }).then((done) => {
        expect(isOpen).toBe(false)
        return done
      })
      await pause(900)
      isOpen = false
    })
    expect(await report).toMatchObject({ days: 1, events: 1 })
    expect(await seen(root, scope)).toMatchObject({ daily: 1, stale: 0 })
  })

  test('what is closed stays so, also by who wanted less and had to wait', async () => {
    const [scope, closed] = [await makeScope(root), yesterday().getTime()]
    let other = Promise.resolve<unknown>(undefined)
    await owner.transaction(async (tx) => {
      await closeAt(tx, scope, closed)
      other = closeAt(owner, scope, closed - HOUR)
      await pause(200)
    })
    await other
    await record(root, scope, [line(closed - 1 - start)])
    expect(await seen(root, scope)).toMatchObject({ stale: 1 })
  })

  test('two at once take turns, and sum a day up once', async () => {
    const scope = await makeScope(root)
    const { organizationId } = scope
    const late = { ...call, occurredAt: yesterday() }
    await record(root, scope, [late])
    await rollUpUsage({ db: root, organizationId })
    await record(root, scope, [late])
    let other = Promise.resolve<unknown>(undefined)
    await asService(root, organizationId, async (tenant) => {
      expect(await rollUpUsage(tenant)).toMatchObject({ days: 1, events: 2 })
      other = rollUpUsage({ db: root, organizationId })
      await pause(200)
    })
    expect(await other).toMatchObject({ days: 0 })
  })

  test('at every moment the sum is the ledger’s, to the nano', async () => {
    const db = await connect(url, { maxConnections: 12, acquireTimeoutMs: 60_000 })
    try {
      const scope = await makeScope(db)
      const { organizationId } = scope
      const range = { since: new Date(Date.now() - 20 * DAY) }
      // Closed at one time after another, with lines on both sides of it.
      let closing = Date.now() - 3 * DAY
      let isOver = false
      const write = async (session: number) => {
        for (let at = 0; !isOver; at += 1) {
          const days = [0, 1, 7, 1 + (at % 9)]
          const early = Date.now() - (days[(at + session) % 4] ?? 0) * DAY
          const close = Math.min(closing + (((at * 7) % 13) - 6) * (HOUR / 3), Date.now())
          const occurredAt = new Date(at % 2 ? close : early)
          const lines = Array.from({ length: 1 + (at % 3) }, (_, place) => ({
            ...{ ...call, model: `m${place}`, endpoint: session % 2 ? '/x' : null },
            ...{ occurredAt, costNanos: BigInt(1 + at * 8 + session) },
          }))
          await asService(db, organizationId, async (tenant) => {
            await recordUsages(tenant, lines)
            if (at % 5 === 0) await pause(at % 30)
          })
        }
      }
      const roll = async () => {
        let days = 0
        while (!isOver) {
          await closeAt(owner, scope, closing)
          days += (await rollUpDays(db, scope, 3)).length
          closing = Math.min(closing + HOUR / 2, Date.now() - HOUR)
          await pause(5)
        }
        return days
      }
      const compare = () =>
        db.transaction(
          (tx) =>
            asService(tx, organizationId, async (tenant) => {
              const answer = shown(await spend(tenant, { ...range, by: 'model' }))
              await pause(10)
              expect(answer.toSorted()).toEqual(
                (await liveSums(tenant, { ...range, by: 'model' })).toSorted(),
              )
              return tablesOf(tenant.db, scope)
            }),
          { isolationLevel: 'repeatable read' },
        )
      const writers = Array.from({ length: 8 }, (_, session) => write(session))
      const rolling = roll()
      try {
        for (let moment = 0; moment < 60; moment += 1) {
          await compare()
          await pause(30)
        }
      } finally {
        isOver = true
        await Promise.allSettled([...writers, rolling])
      }
      await Promise.all(writers)
      expect(await rolling).toBeGreaterThan(10)
      await rollUpUsage({ db, organizationId })
      expect(await compare()).toMatchObject({ stale: 0 })
    } finally {
      await db.close()
    }
  }, 60_000)

  test('a writer with a snapshot of its own marks its day all the same', async () => {
    const scope = await makeScope(root)
    const { organizationId } = scope
    await record(root, scope, [{ ...call, occurredAt: yesterday() }])
    await root.transaction(
      async (tx) => {
        await rowsOf(tx, sql`select 1 from identity.users limit 1`)
        // The mark that it sees is gone by the time it writes.
        await rollUpUsage({ db: root, organizationId })
        await asService(tx, organizationId, (tenant) =>
          recordUsage(tenant, { ...call, occurredAt: yesterday() }),
        )
      },
      { isolationLevel: 'repeatable read' },
    )
    expect(await seen(root, scope)).toMatchObject({ stale: 1 })
    const [sum] = await asService(root, organizationId, (tenant) =>
      spend(tenant, { since: new Date(Date.now() - 3 * DAY) }),
    )
    expect(sum).toMatchObject({ events: 2 })
  })
})
