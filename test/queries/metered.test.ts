import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, describe, expect } from 'vitest'
import { type Connection, connect } from '../../src/database.ts'
import { TimeoutError, ValidationError } from '../../src/errors.ts'
import { BudgetExceededError, IdempotencyError, UnpricedError } from '../../src/guard-errors.ts'
import { budgetDrift, budgetStatus } from '../../src/queries/budgets.ts'
import { listUsage } from '../../src/queries/costs.ts'
import {
  type MeteredCall,
  type MeteredOptions,
  metered,
  type ReportedUsage,
} from '../../src/queries/metered.ts'
import type { UsageCounts } from '../../src/queries/prices.ts'
import { expireReservations, listReservations, reserve } from '../../src/queries/reservations.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant, type Scope, type Tenancy } from '../../src/tenant.ts'
import { makeBudget, makeModelPrice } from '../../src/testing/costs.ts'
import { makeScope } from '../../src/testing/factories.ts'
import { root, test, url } from '../support/database.ts'
import { openProxy } from '../support/proxy.ts'

const options: MeteredOptions = { provider: 'test', model: 'test-model', amountNanos: 10n }

const pool = url ? await connect(url, { maxConnections: 20, acquireTimeoutMs: 60_000 }) : undefined
afterAll(() => pool?.close())

async function makeSpender(db: Tenancy['db'], limitNanos = 10n): Promise<Tenancy & Scope> {
  const scope = await makeScope(db)
  await inTenant(db, scope, (tenant) => makeBudget(tenant, { limitNanos }))
  return { db, ...scope }
}

const statusOf = (spender: Tenancy & Scope) =>
  inTenant(spender.db, spender, async (tenant) => {
    expect(await budgetDrift(tenant)).toEqual([])
    const [status] = await budgetStatus(tenant)
    return [status?.spentNanos, status?.reservedNanos]
  })

describe('metered', () => {
  test('reserves, calls, and settles by what was reported', async () => {
    const spender = await makeSpender(root)
    const calls: MeteredCall[] = []
    const { value, usage, replayed } = await metered(
      spender,
      { ...options, operation: 'chat', endpoint: '/api/chat' },
      async (call) => {
        calls.push(call)
        expect(await statusOf(spender)).toEqual([0n, 10n])
        call.report({ costNanos: 99n })
        call.report({ costNanos: 4n, outputTokens: 3 })
        return 'answer'
      },
    )
    expect({ value, replayed }).toEqual({ value: 'answer', replayed: false })
    expect(usage).toMatchObject({ costNanos: 4n, late: false, exceeded: [] })
    expect(await statusOf(spender)).toEqual([4n, 0n])
    const [line] = await inTenant(root, spender, (tenant) => listUsage(tenant))
    expect(line).toMatchObject({
      ...{ operation: 'chat', endpoint: '/api/chat', outputTokens: 3, id: usage?.id },
      ...{ occurredAt: calls[0]?.reservation.createdAt, userId: spender.userId },
    })
    expect(line?.latencyMs).toBeTypeOf('number')
  })

  test('takes no id from a report, such as the provider’s own', async () => {
    const spender = await makeSpender(root)
    const answer = { id: 'chatcmpl-1', operation: 'other', costNanos: 4n }
    const { usage } = await metered(spender, { ...options, operation: 'chat' }, async (call) =>
      call.report(answer),
    )
    expect(usage).toMatchObject({ costNanos: 4n })
    expect(await statusOf(spender)).toEqual([4n, 0n])
  })

  test('does not call what has no room, and says when it has', async () => {
    const spender = await makeSpender(root, 9n)
    let called = false
    const error = await metered(spender, options, async () => {
      called = true
    }).catch((reason) => reason)
    expect(error).toBeInstanceOf(BudgetExceededError)
    expect(error).toMatchObject({
      amountNanos: 10n,
      blockedBy: [{ limitNanos: 9n }],
      freesUpAt: null,
    })
    expect(error.message).toMatch(/raise the limit/)
    expect(called).toBe(false)
  })

  test('gives back what a failed call did not cost, and records what it did', async () => {
    const spender = await makeSpender(root)
    const failing = (report: bigint | undefined) =>
      metered(spender, options, async (call) => {
        if (report !== undefined) call.report({ costNanos: report })
        throw new Error('the model is away')
      })
    await expect(failing(undefined)).rejects.toThrow('the model is away')
    expect(await statusOf(spender)).toEqual([0n, 0n])
    await expect(failing(3n)).rejects.toThrow('the model is away')
    expect(await statusOf(spender)).toEqual([3n, 0n])
  })

  test('takes a call that reports nothing for all that was reserved', async () => {
    const spender = await makeSpender(root)
    const { usage } = await metered(spender, options, async () => 1)
    expect(usage).toMatchObject({ costNanos: 10n, status: 'estimated' })
  })

  test('takes one whose counts are not known for all that was reserved, and one that used nothing for nothing', async ({
    db,
  }) => {
    const model = uuidV7()
    await makeModelPrice(db, { model })
    const scope = await makeScope(db)
    const reporting = (usage: ReportedUsage) =>
      inTenant(db, scope, (tenant) =>
        metered(tenant, { ...options, model }, async ({ report }) => report(usage)),
      )
    // As a provider whose stream ends without its usage has it.
    const unknown: UsageCounts = JSON.parse('{"inputTokens": null}')
    for (const usage of [{}, { inputTokens: undefined }, unknown]) {
      expect((await reporting(usage)).usage).toMatchObject({ costNanos: 10n, status: 'estimated' })
    }
    expect((await reporting({ inputTokens: 0 })).usage).toMatchObject({
      ...{ costNanos: 0n, status: 'priced' },
    })
  })

  test('makes the call of a key once, and gives its value to the next', async () => {
    const spender = await makeSpender(root, 100n)
    let calls = 0
    const call = (key: string, model = 'test-model') =>
      metered(spender, { ...options, model, idempotencyKey: key }, async ({ report }) => {
        calls += 1
        report({ costNanos: 2n })
        return { text: `answer ${calls}` }
      })
    expect(await call('a')).toMatchObject({ value: { text: 'answer 1' }, replayed: false })
    expect(await call('a')).toMatchObject({
      ...{ value: { text: 'answer 1' }, replayed: true },
      usage: { costNanos: 2n, duplicate: true },
    })
    expect(await call('b')).toMatchObject({ value: { text: 'answer 2' } })
    const conflict = await call('a', 'other').catch((error) => error)
    expect(conflict).toBeInstanceOf(IdempotencyError)
    expect(conflict).toMatchObject({ reason: 'conflict', key: 'a' })
    expect(calls).toBe(2)
    expect(await statusOf(spender)).toEqual([4n, 0n])
  })

  test('works within a scope, all in its transaction', async ({ db }) => {
    const scope = await makeScope(db)
    await inTenant(db, scope, async (tenant) => {
      await makeBudget(tenant, { limitNanos: 10n })
      const { value } = await metered(
        tenant,
        { ...options, idempotencyKey: 'a' },
        async ({ report }) => {
          report({ costNanos: 6n })
          return 5
        },
      )
      expect(value).toBe(5)
      expect(await listUsage(tenant)).toHaveLength(1)
      expect(await budgetStatus(tenant)).toMatchObject([{ spentNanos: 6n, reservedNanos: 0n }])
    })
  })

  test.for([
    { amountNanos: -1n },
    { leaseMs: 1 },
    { idempotencyKey: '' },
    { idempotencyKey: 'x'.repeat(191) },
    { provider: '' },
  ])('refuses %o before any call', async (wrong) => {
    const spender = await makeSpender(root)
    const call = metered(spender, { ...options, ...wrong }, () => {
      throw new Error('called')
    })
    await expect(call).rejects.toThrow(ValidationError)
  })

  test('refuses a model whose price is not known', async () => {
    const spender = await makeSpender(root)
    const { amountNanos: _, ...unpriced } = options
    await expect(
      metered(spender, { ...unpriced, model: 'nobody-knows', inputTokens: 1 }, async () => {}),
    ).rejects.toThrow(UnpricedError)
  })
})

describe.skipIf(!url)('metered on a server', () => {
  const of = (connection: Connection | undefined): Connection => {
    if (!connection) throw new Error('no server')
    return connection
  }

  test('makes 200 duplicates of a key one call and one line', async () => {
    const spender = await makeSpender(of(pool), 1_000n)
    let calls = 0
    const results = await Promise.all(
      Array.from({ length: 200 }, () =>
        metered(
          spender,
          { ...options, idempotencyKey: 'one', waitMs: 30_000 },
          async ({ report }) => {
            calls += 1
            await pause(50)
            report({ costNanos: 3n })
            return 'answer'
          },
        ),
      ),
    )
    expect(calls).toBe(1)
    expect(results.every(({ value }) => value === 'answer')).toBe(true)
    expect(results.filter(({ replayed }) => !replayed)).toHaveLength(1)
    expect(await statusOf(spender)).toEqual([3n, 0n])
  })

  test('holds what a call that takes long has reserved, for as long as it takes', async () => {
    const spender = await makeSpender(of(pool))
    await metered(spender, { ...options, leaseMs: 1_500 }, async ({ report, signal }) => {
      await pause(3_000)
      await inTenant(spender.db, spender, (tenant) => expireReservations(tenant))
      expect(signal.aborted).toBe(false)
      expect(await statusOf(spender)).toEqual([0n, 10n])
      report({ costNanos: 1n })
    })
    expect(await statusOf(spender)).toEqual([1n, 0n])
  })

  test('is not made again under its key if the ledger does not take it, and settled then', async () => {
    const hurried = await connect(url ?? '', { statementTimeoutMs: 1_500 })
    let give = () => {}
    const given = new Promise<void>((resolve) => {
      give = resolve
    })
    try {
      const spender = await makeSpender(of(pool))
      let calls = 0
      const once = () =>
        metered(
          { ...spender, db: hurried },
          { ...options, amountNanos: 5n, idempotencyKey: 'once' },
          async () => {
            calls += 1
            // Somebody else has the counter, for as long as it is tried.
            await new Promise<void>((locked, failed) => {
              inTenant(of(pool), spender, async (tenant) => {
                await reserve(tenant, { ...options, amountNanos: 1n })
                locked()
                await given
              }).catch(failed)
            })
            return 'an answer'
          },
        )
      await expect(once()).rejects.toThrow(TimeoutError)
      give()
      const of5 = { costNanos: 5n, status: 'estimated', late: false }
      expect(await once()).toMatchObject({ value: 'an answer', replayed: true, usage: of5 })
      expect((await once()).usage).toMatchObject({ ...of5, duplicate: true })
      expect(calls).toBe(1)
      expect(await statusOf({ ...spender, db: of(pool) })).toEqual([5n, 1n])
    } finally {
      give()
      await hurried.close()
    }
  })

  test('settles when the connection is lost in between, and aborts a call whose lease is lost', async () => {
    const proxy = await openProxy(url ?? '')
    const through = await connect(proxy.url, { maxConnections: 2, acquireTimeoutMs: 500 })
    try {
      const spender = { ...(await makeSpender(of(pool))), db: through }
      const { usage } = await metered(spender, options, async ({ report }) => {
        report({ costNanos: 5n })
        proxy.drop()
      })
      expect(usage).toMatchObject({ costNanos: 5n })
      expect(await statusOf({ ...spender, db: of(pool) })).toEqual([5n, 0n])

      const aborted = await metered(
        { ...spender },
        { ...options, amountNanos: 5n, leaseMs: 300, onUnsettled: () => {} },
        async ({ signal, report }) => {
          proxy.refuse()
          proxy.drop()
          await new Promise((resolve) => signal.addEventListener('abort', resolve))
          report({ costNanos: 5n })
          return signal.aborted
        },
      )
      expect(aborted).toMatchObject({ value: true, usage: undefined })
      await inTenant(of(pool), spender, async (tenant) => {
        await pause(100)
        await expireReservations(tenant)
        expect(await listReservations(tenant)).toMatchObject([
          { state: 'expired' },
          { state: 'settled' },
        ])
      })
    } finally {
      await through.close()
      await proxy.close()
    }
  })
})
