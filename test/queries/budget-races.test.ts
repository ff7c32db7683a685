import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { afterAll, describe, expect, test } from 'vitest'
import { type Connection, connect, only, rowsOf } from '../../src/database.ts'
import { ConnectionError, LockError } from '../../src/errors.ts'
import { ReservationError } from '../../src/guard-errors.ts'
import { drainBudgetAlerts } from '../../src/lifecycle/budgets.ts'
import { claimBudgetAlerts, listBudgetAlerts } from '../../src/queries/budget-alerts.ts'
import {
  budgetDrift,
  budgetStatus,
  type CreateBudgetOptions,
  removeBudget,
  updateBudget,
} from '../../src/queries/budgets.ts'
import { recordUsage } from '../../src/queries/costs.ts'
import { updateOrganization } from '../../src/queries/identity.ts'
import {
  expireReservations,
  getReservation,
  type ReserveOutcome,
  release,
  reserve,
  settle,
} from '../../src/queries/reservations.ts'
import { inTenant, type Scope, type Tenant } from '../../src/tenant.ts'
import { makeBudget, makeReservation } from '../../src/testing/costs.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { adminUrl, owner, url } from '../support/own-database.ts'
import { makePgbouncer } from '../support/pgbouncer.ts'
import { random } from '../support/random.ts'

// PGlite has one session: nothing of this could go wrong on it. On the server the file has a database of its own,
// since it ends sessions.

const call = { provider: 'test', model: 'test-model' }
const pooler = url ? await makePgbouncer(url) : undefined
const pool = url ? await connect(url, { maxConnections: 50, acquireTimeoutMs: 60_000 }) : undefined
const pooled = pooler
  ? await connect(pooler.url, { maxConnections: 50, acquireTimeoutMs: 60_000, prepare: false })
  : undefined
afterAll(async () => {
  await pool?.close()
  await pooled?.close()
  await pooler?.close()
})

const of = (connection: Connection | undefined): Connection => {
  if (!connection) throw new Error('no server')
  return connection
}

const budgeted = async (db: Connection, budget: Partial<CreateBudgetOptions>): Promise<Scope> => {
  const scope = await makeScope(db)
  await inTenant(db, scope, (tenant) => makeBudget(tenant, budget))
  return scope
}

const reserveOne = (db: Connection, scope: Scope, amountNanos = 7n, leaseMs = 600_000) =>
  inTenant(db, scope, (tenant) => reserve(tenant, { ...call, amountNanos, leaseMs }))

const idsOf = (outcomes: readonly ReserveOutcome[]) =>
  outcomes.flatMap((outcome) => (outcome.granted ? [outcome.reservation.id] : []))

const checked = (db: Connection, scope: Scope) =>
  inTenant(db, scope, async (tenant) => ({
    status: await budgetStatus(tenant),
    drift: await budgetDrift(tenant),
  }))

describe.skipIf(!url)('1,000 reservations through a pool of 50', () => {
  const ways = { 'the server': () => of(pool), pgbouncer: () => of(pooled) }
  const cases = Object.entries(ways).flatMap(([way, db]) =>
    [1, 2, 3].flatMap((seed) => [1, 8].map((shards) => ({ way, db, seed, shards }))),
  )

  test.each(cases)('grant exactly the limit by $way, $shards counters, seed $seed', async (one) => {
    const db = one.db()
    const next = random(one.seed)
    // Of several sizes: what is left at the end is less than the smallest that was refused.
    const amounts = Array.from({ length: 1_000 }, () => BigInt(1 + next(13)))
    const limitNanos = 700n
    const scope = await budgeted(db, { limitNanos, shards: one.shards })
    const outcomes = await Promise.all(amounts.map((amount) => reserveOne(db, scope, amount)))

    const granted = outcomes.reduce(
      (sum, outcome) => sum + (outcome.granted ? outcome.reservation.amountNanos : 0n),
      0n,
    )
    const { status, drift } = await checked(db, scope)
    expect(status).toMatchObject([{ reservedNanos: granted }])
    expect(drift).toEqual([])
    expect(granted).toBeLessThanOrEqual(limitNanos)
    const refused = outcomes.flatMap((outcome) => (outcome.granted ? [] : [outcome.amountNanos]))
    const left = limitNanos - granted
    expect(refused.filter((amount) => amount <= left)).toEqual([])
  })

  test('of a member who has no counter yet, within the organization’s limit too', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { name: 'all', limitNanos: 1_000n })
    await inTenant(db, scope, (tenant) =>
      makeBudget(tenant, { name: 'each', scope: 'user', limitNanos: 700n, period: 'day' }),
    )
    const member = await joinScope(db, scope)
    const outcomes = await Promise.all(Array.from({ length: 1_000 }, () => reserveOne(db, member)))

    expect(idsOf(outcomes)).toHaveLength(100)
    const { status, drift } = await checked(db, scope)
    expect(status.map(({ reservedNanos }) => reservedNanos)).toEqual([700n, 700n])
    expect(drift).toEqual([])
  })
})

describe.skipIf(!url)('a reservation', () => {
  test('is settled or released, once, when both are asked for at once', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { limitNanos: 1_000n })
    const ids = idsOf(
      await Promise.all(Array.from({ length: 100 }, () => reserveOne(db, scope, 10n))),
    )
    expect(ids).toHaveLength(100)
    const results = await Promise.all(
      ids.map((id) =>
        Promise.allSettled([
          inTenant(db, scope, (tenant) => settle(tenant, { id, costNanos: 4n })),
          inTenant(db, scope, (tenant) => release(tenant, id)),
          inTenant(db, scope, (tenant) => settle(tenant, { id, costNanos: 4n })),
        ]),
      ),
    )
    let settled = 0n
    for (const [one, released, other] of results) {
      expect(one.status).toBe(other.status)
      expect(released.status).not.toBe(one.status)
      for (const result of [one, released]) {
        if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(ReservationError)
      }
      if (one.status === 'fulfilled') settled += 1n
    }
    const { status, drift } = await checked(db, scope)
    expect(status).toMatchObject([{ spentNanos: settled * 4n, reservedNanos: 0n }])
    expect(drift).toEqual([])
  })

  test('is in one window, also while the time zone changes', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { scope: 'user', period: 'day' })
    const record = () =>
      inTenant(db, scope, (tenant) =>
        recordUsage(tenant, { ...call, operation: 'chat', costNanos: 1n }),
      )
    const other = await inTenant(db, scope, async (tenant) => {
      await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 1n })
      await updateOrganization(db, {
        id: scope.organizationId,
        timeZone: 'Pacific/Kiritimati',
      })
      const waiting = record()
      await pause(200)
      return { waiting }
    })
    await other.waiting
    expect((await checked(db, scope)).drift).toEqual([])
  })

  test('and a change or the end of a budget wait for calls, and never for each other', async () => {
    const db = of(pool)
    for (const change of [
      (tenant: Tenant, id: string) => updateBudget(tenant, { id, limitNanos: 7n }),
      (tenant: Tenant, id: string) => removeBudget(tenant, id),
    ]) {
      const scope = await makeScope(db)
      const member = await joinScope(db, scope)
      const { id } = await inTenant(db, scope, (tenant) => makeBudget(tenant, { scope: 'user' }))
      const spend = (tenant: Tenant, { userId }: Scope) =>
        recordUsage(tenant, { ...call, operation: 'chat', costNanos: 600_000_000n, userId })
      await inTenant(db, scope, (tenant) => spend(tenant, scope))
      const { waiting } = await inTenant(db, scope, async (tenant) => {
        await spend(tenant, scope)
        const waiting = inTenant(db, scope, (other) => change(other, id))
        waiting.catch(() => {})
        await pause(200)
        await spend(tenant, member)
        return { waiting }
      })
      await waiting
    }
  })

  test('is not held up by a budget that is removed meanwhile', async () => {
    const db = of(pool)
    for (const budget of [{}, { scope: 'user' }] as const) {
      const scope = await makeScope(db)
      await inTenant(db, scope, (tenant) => makeBudget(tenant))
      const gone = await inTenant(db, scope, (tenant) => makeBudget(tenant, budget))
      const outcome = await inTenant(db, scope, async (tenant) => {
        await removeBudget(tenant, gone.id)
        const waiting = reserveOne(db, scope)
        await pause(200)
        return { waiting }
      }).then(({ waiting }) => waiting)
      expect(outcome).toMatchObject({ granted: true })
      const { status, drift } = await checked(db, scope)
      expect(status).toMatchObject([{ reservedNanos: 7n }])
      expect(drift).toEqual([])
    }
  })

  test('of a process that is killed gives its capacity back when the lease ends', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { limitNanos: 10n })
    const child = fork(fileURLToPath(new URL('../support/reserve-child.ts', import.meta.url)), {
      execArgv: ['--import', 'tsx'],
      env: { ...process.env, RESERVE: JSON.stringify({ url, scope, leaseMs: 4_000 }) },
    })
    const [message] = await once(child, 'message')
    child.kill('SIGKILL')
    await once(child, 'exit')

    const { id, leasedUntil } = JSON.parse(String(message))
    const refused = await reserveOne(db, scope, 10n)
    expect(refused).toMatchObject({ granted: false, freesUpAt: new Date(leasedUntil) })
    const again = async () => {
      const { now } = only(await rowsOf<{ now: string }>(db, sql`select clock_timestamp() as now`))
      const outcome = await reserveOne(db, scope, 10n)
      return { now: new Date(now), granted: outcome.granted }
    }
    // Never before, and at once after.
    for (;;) {
      const { now, granted } = await again()
      if (granted) break
      expect(now.getTime()).toBeLessThanOrEqual(new Date(leasedUntil).getTime())
      await pause(20)
    }
    const read = await inTenant(db, scope, (tenant) => getReservation(tenant, id))
    expect(read).toMatchObject({ state: 'expired' })
    expect(read.resolvedAt?.getTime()).toBeGreaterThanOrEqual(new Date(leasedUntil).getTime())
    expect((await checked(db, scope)).drift).toEqual([])
  })
})

describe.skipIf(!adminUrl)('under load', () => {
  /** Ends the windows of an organization soon, as the clock would. */
  const endWindows = (scope: Scope, afterMs: number) =>
    rowsOf(
      owner,
      sql`update costs.budget_windows
        set ends_at = (select date_trunc('milliseconds', clock_timestamp()) + ${afterMs} * interval '1 millisecond')
        where organization_id = ${scope.organizationId}`,
    )

  test.each([1, 4])(
    'the edge of a window lets nothing through, with %i counters',
    async (shards) => {
      const db = of(pool)
      const limitNanos = 400n
      const scope = await budgeted(db, { limitNanos, shards, period: 'month' })
      await endWindows(scope, 700)
      const end = performance.now() + 1_600
      const next = random(7 + shards)
      const worker = async () => {
        while (performance.now() < end) {
          const outcome = await reserveOne(db, scope, BigInt(1 + next(40)))
          if (!outcome.granted) await pause(next(30))
          else if (next(3) > 0) {
            await pause(next(10))
            const { id, amountNanos } = outcome.reservation
            await inTenant(db, scope, (tenant) =>
              settle(tenant, { id, costNanos: amountNanos - 1n }),
            )
          }
        }
      }
      await Promise.all(Array.from({ length: 16 }, worker))
      const windows = await rowsOf<{ used: string; shards: number }>(
        owner,
        sql`select sum(spent_nanos + reserved_nanos)::text as used, count(*)::int as shards
        from costs.budget_windows where organization_id = ${scope.organizationId} group by starts_at`,
      )
      expect(windows).toHaveLength(2)
      for (const { used } of windows) {
        expect(Number(used)).toBeGreaterThan(300)
        expect(Number(used)).toBeLessThanOrEqual(Number(limitNanos))
      }
      expect((await checked(db, scope)).drift).toEqual([])
    },
  )

  test.each([1, 4])(
    'the counters are the ledger after any chaos, with %i of them',
    async (shards) => {
      const db = of(pool)
      const scope = await budgeted(db, { name: 'all', limitNanos: 5_000n, shards, period: 'hour' })
      const members = [scope, await joinScope(db, scope), await joinScope(db, scope, 'viewer')]
      const budgetId = await inTenant(db, scope, async (tenant) => {
        await makeBudget(tenant, { name: 'each', scope: 'user', limitNanos: 3_000n, shards })
        await makeBudget(tenant, {
          name: 'model',
          scope: 'model',
          limitNanos: 9_000n,
          mode: 'warn',
        })
        return (await budgetStatus(tenant))[0]?.budgetId ?? ''
      })
      const next = random(11 * shards)
      const failures: unknown[] = []
      const end = performance.now() + 4_000
      const worker = async () => {
        const held: { scope: Scope; id: string }[] = []
        while (performance.now() < end) {
          const member = members[next(members.length)] as Scope
          const dice = next(100)
          const work = async () => {
            if (dice < 50) {
              const leaseMs = next(4) === 0 ? 100 : 60_000
              const outcome = await reserveOne(db, member, BigInt(next(90)), leaseMs)
              if (outcome.granted) held.push({ scope: member, id: outcome.reservation.id })
            } else if (dice < 80) {
              const one = held.shift()
              if (!one) return
              await inTenant(db, one.scope, async (tenant) => {
                if (dice < 60) await release(tenant, one.id)
                else await settle(tenant, { id: one.id, costNanos: BigInt(next(120)) })
              })
            } else if (dice < 90) {
              await inTenant(db, member, (tenant) =>
                recordUsage(tenant, { ...call, operation: 'chat', costNanos: BigInt(next(50)) }),
              )
            } else if (dice < 95) {
              await inTenant(db, scope, (tenant) => expireReservations(tenant))
            } else if (dice < 98) {
              await inTenant(db, scope, (tenant) =>
                updateBudget(tenant, { id: budgetId, limitNanos: BigInt(4_000 + next(4_000)) }),
              )
            } else {
              // Half of a transaction that dies with its connection.
              await rowsOf(
                owner,
                sql`select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() and query like '%costs.%'
                order by random() limit 1`,
              )
            }
          }
          await work().catch((error) => failures.push(error))
        }
      }
      await Promise.all(Array.from({ length: 24 }, worker))
      // The pool knows by then which of its idle connections were ended.
      await pause(200)

      // What is lost with its connection is not half done, and nothing else goes wrong.
      expect(failures.filter((error) => !(error instanceof ConnectionError)).map(String)).toEqual(
        [],
      )
      expect(failures.some((error) => error instanceof LockError)).toBe(false)
      const { status, drift } = await checked(db, scope)
      expect(drift).toEqual([])
      expect(status.length).toBeGreaterThanOrEqual(5)
    },
  )

  test('budgets are made, changed and removed in no circle with calls', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { name: 'all', limitNanos: 10n ** 9n, shards: 2 })
    const members = [scope, await joinScope(db, scope), await joinScope(db, scope)]
    const next = random(5)
    const failures: unknown[] = []
    const end = performance.now() + 4_000
    const caller = async () => {
      while (performance.now() < end) {
        const one = members[next(3)] as Scope
        const held: string[] = []
        for (const leaseMs of [100, 60_000]) {
          const outcome = await reserveOne(db, one, BigInt(next(90)), leaseMs)
          if (outcome.granted) held.push(outcome.reservation.id)
        }
        for (const id of held) {
          await inTenant(db, one, async (tenant) => {
            if (next(2) === 0) await settle(tenant, { id, costNanos: BigInt(next(120)) })
            else await release(tenant, id)
          })
        }
        await reserveOne(db, members[next(3)] as Scope, 5n, 100)
        await inTenant(db, scope, (tenant) => expireReservations(tenant))
      }
    }
    const admin = async (name: string) => {
      const change = <T>(work: (tenant: Tenant) => Promise<T>) => inTenant(db, scope, work)
      while (performance.now() < end) {
        const each = { scope: 'user', period: 'day', limitNanos: 10n ** 9n } as const
        const subject = members[next(3)]?.userId as string
        const { id } = await change((tenant) =>
          makeBudget(tenant, { ...each, name, shards: 1 + next(3) }),
        )
        const own = await change((tenant) => makeBudget(tenant, { ...each, subject }))
        await change((tenant) => updateBudget(tenant, { id, limitNanos: BigInt(next(10 ** 6)) }))
        await change((tenant) => updateBudget(tenant, { id, shards: 4 }))
        await change((tenant) => removeBudget(tenant, own.id))
        await change((tenant) => removeBudget(tenant, id))
      }
    }
    const failed = (error: unknown) => failures.push(error)
    await Promise.all([
      ...Array.from({ length: 16 }, () => caller().catch(failed)),
      ...['one', 'another'].map((name) => admin(name).catch(failed)),
    ])
    expect(failures.map(String)).toEqual([])
    expect((await checked(db, scope)).drift).toEqual([])
  })

  test('a budget that is made meanwhile misses no line', async () => {
    const db = of(pool)
    for (let round = 0; round < 5; round += 1) {
      const scope = await makeScope(db)
      let made = false
      const writer = async () => {
        for (let after = 0; after < 3; after += made ? 1 : 0) {
          await inTenant(db, scope, async (tenant) => {
            await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 1n })
            // A transaction that takes long, and ends after the budget was asked for.
            await pause(Math.random() * 20)
          })
        }
      }
      const writing = Promise.all(Array.from({ length: 8 }, writer))
      await pause(60)
      await inTenant(db, scope, (tenant) => makeBudget(tenant, { limitNanos: 10n ** 9n }))
      made = true
      await writing
      expect((await checked(db, scope)).drift).toEqual([])
    }
  })

  test('nobody writes past a budget that the own snapshot is older than', async () => {
    const db = of(pool)
    const scope = await makeScope(db)
    const writing = db.transaction(
      (tx) =>
        inTenant(tx, scope, async (tenant) => {
          await listBudgetAlerts(tenant)
          await inTenant(db, scope, (other) => makeBudget(other, { limitNanos: 10n }))
          await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 1n })
        }),
      { isolationLevel: 'repeatable read' },
    )
    await expect(writing).rejects.toMatchObject({ name: 'LockError', kind: 'serialization' })
    expect((await checked(db, scope)).drift).toEqual([])
  })

  test('an alert is raised once for each threshold', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { limitNanos: 1_000n, thresholds: [10, 50, 100] })
    await Promise.all(
      Array.from({ length: 200 }, () =>
        inTenant(db, scope, (tenant) =>
          recordUsage(tenant, { ...call, operation: 'chat', costNanos: 10n }),
        ),
      ),
    )
    const alerts = await inTenant(db, scope, (tenant) => listBudgetAlerts(tenant))
    expect(alerts.map(({ threshold, spentNanos }) => [threshold, spentNanos]).toSorted()).toEqual([
      [10, 100n],
      [100, 1_000n],
      [50, 500n],
    ])
  })

  test('no call waits for the end of a budget whose alerts somebody is telling of', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { limitNanos: 1_000n, thresholds: [1] })
    const [status] = (await checked(db, scope)).status
    await inTenant(db, scope, (tenant) =>
      recordUsage(tenant, { ...call, operation: 'chat', costNanos: 100n }),
    )
    const { removing } = await inTenant(db, scope, async (tenant) => {
      expect(await claimBudgetAlerts(tenant)).toHaveLength(1)
      const removing = inTenant(db, scope, (other) => removeBudget(other, status?.budgetId ?? ''))
      removing.catch(() => {})
      await pause(500)
      await inTenant(db, scope, async (other) => {
        await other.db.execute(sql`set local lock_timeout = '5s'`)
        await recordUsage(other, { ...call, operation: 'chat', costNanos: 10n })
      })
      return { removing }
    })
    await removing
  })

  test('no call waits for who is drained of what several counters have reached', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { limitNanos: 10_000n, thresholds: [5], shards: 4 })
    const spendMost = (tenant: Tenant) =>
      recordUsage(tenant, { ...call, operation: 'chat', costNanos: 300n })
    await inTenant(db, scope, (tenant) =>
      recordUsage(tenant, { ...call, operation: 'chat', costNanos: 1n }),
    )
    // Neither sees that both together have reached it.
    await inTenant(db, scope, async (tenant) => {
      await spendMost(tenant)
      await inTenant(db, scope, spendMost)
    })
    expect(await inTenant(db, scope, (tenant) => listBudgetAlerts(tenant))).toEqual([])
    const told: number[] = []
    await drainBudgetAlerts(db, async (alerts, { organizationId }) => {
      if (organizationId !== scope.organizationId) return
      told.push(...alerts.map(({ threshold }) => threshold))
      await inTenant(db, scope, async (other) => {
        await other.db.execute(sql`set local lock_timeout = '5s'`)
        await spendMost(other)
      })
    })
    expect(told).toEqual([5])
  })

  test('no call waits for who is telling of an alert', async () => {
    const db = of(pool)
    const scope = await budgeted(db, { limitNanos: 1_000n, thresholds: [1] })
    const { id } = await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 1_000n, thresholds: [1], shards: 4 })
      await recordUsage(tenant, { ...call, operation: 'chat', costNanos: 100n })
      return makeReservation(tenant, { amountNanos: 10n })
    })
    await inTenant(db, scope, async (tenant) => {
      expect(await claimBudgetAlerts(tenant)).toHaveLength(2)
      await inTenant(db, scope, async (other) => {
        await other.db.execute(sql`set local lock_timeout = '2s'`)
        await settle(other, { id, costNanos: 0n })
        await recordUsage(other, { ...call, operation: 'chat', costNanos: 10n })
      })
    })
  })
})
