import { sql } from 'drizzle-orm'
import type { Sql } from 'postgres'
import type { Database } from '../../src/database.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { inTenant, type Scope } from '../../src/tenant.ts'
import { median } from '../support.ts'

export interface Rate {
  name: string
  /** Calls a second: the median of the rounds. */
  perSecond: number
}

export interface MeasureRatesOptions {
  clients: number
  /** Of each candidate, over all rounds. */
  seconds: number
}

const ROUNDS = 5

/** Lets so many clients call each candidate without a pause, by turns of a fifth of the time. */
export async function measureRates(
  candidates: Record<string, (n: number) => Promise<unknown>>,
  { clients, seconds }: MeasureRatesOptions,
): Promise<Rate[]> {
  const rates = new Map<string, number[]>(Object.keys(candidates).map((name) => [name, []]))
  let count = 0
  for (let round = -1; round < ROUNDS; round += 1) {
    for (const [name, call] of Object.entries(candidates)) {
      const start = performance.now()
      const end = start + (seconds * 1_000) / ROUNDS
      let calls = 0
      const client = async () => {
        while (performance.now() < end) {
          count += 1
          await call(count)
          calls += 1
        }
      }
      await Promise.all(Array.from({ length: clients }, client))
      // The first round is to warm up.
      if (round >= 0) rates.get(name)?.push((calls / (performance.now() - start)) * 1_000)
    }
  }
  return [...rates].map(([name, measured]) => ({ name, perSecond: median(measured) }))
}

/** Prints calls a second, and their ratio to the first row. */
export function printRates(title: string, rates: readonly Rate[]): void {
  const base = rates[0]?.perSecond ?? Number.NaN
  const width = Math.max(...rates.map(({ name }) => name.length))
  const lines = rates.map(
    ({ name, perSecond }) =>
      `  ${name.padEnd(width)}  ${perSecond.toFixed(0).padStart(7)} /s  x${(perSecond / base).toFixed(2)}`,
  )
  process.stdout.write(`${[title, ...lines].join('\n')}\n\n`)
}

/** One line of the ledger, with the least that it can have: what every guard is compared with. */
export const plainInsert = {
  scoped: (db: Database, scope: Scope) =>
    inTenant(db, scope, ({ db }) =>
      db
        .execute(sql`
          insert into costs.usage_events (organization_id, id, user_id, provider, model, operation, status,
            input_tokens, output_tokens, cost_nanos)
          values (${scope.organizationId}, ${uuidV7()}, ${scope.userId}, 'test', 'test-model', 'chat', 'priced',
            1000, 100, 7)`)
        .execute(),
    ),
  raw: (client: Sql, { organizationId, userId }: Scope) => client`
    insert into costs.usage_events (organization_id, id, user_id, provider, model, operation, status,
      input_tokens, output_tokens, cost_nanos)
    values (${organizationId}, ${uuidV7()}, ${userId}, 'test', 'test-model', 'chat', 'priced', 1000, 100, 7)`,
}
