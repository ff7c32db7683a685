import { sql } from 'drizzle-orm'
import { expect } from 'vitest'
import { type Database, rowsOf } from '../src/database.ts'
import { PlinthError, ValidationError } from '../src/errors.ts'
import * as adopt from '../src/lifecycle/adopt.ts'
import * as budgets from '../src/lifecycle/budgets.ts'
import * as partitions from '../src/lifecycle/partitions.ts'
import * as spaceIndex from '../src/lifecycle/space-index.ts'
import * as usageDaily from '../src/lifecycle/usage-daily.ts'
import * as queries from '../src/queries/index.ts'
import { inTenant } from '../src/tenant.ts'
import { rollback } from '../src/testing/database.ts'
import { makeScope } from '../src/testing/factories.ts'
import { DOORS } from './support/doors.ts'
import { test } from './support/own-database.ts'

// Not every caller has types. Whatever comes in, a door answers or refuses it in words, and a refusal leaves the
// transaction as it was.

const JUNK: [name: string, value: unknown][] = [
  ...[
    undefined,
    null,
    true,
    0,
    -1,
    1.5,
    1e300,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    -1n,
    2n ** 70n,
    '',
    'x',
    'a\0b',
    '\ud800',
  ].map((value): [string, unknown] => [
    typeof value === 'string' ? JSON.stringify(value) : String(value),
    value,
  ]),
  ['a symbol', Symbol('s')],
  ['{}', {}],
  ['an object without prototype', Object.create(null)],
  ['[]', []],
  ['[null]', [null]],
  ['a function', () => 1],
  ['an invalid Date', new Date(Number.NaN)],
  ['a Date before Postgres', new Date(-8.64e15)],
  ['a huge array', new Array(100_001).fill('x')],
  ['a long text', 'x'.repeat(100_001)],
]

const isPlain = (value: unknown): value is object =>
  typeof value === 'object' &&
  value !== null &&
  (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype)

/** A value, once with each junk in each of its places. */
function* spoilt(value: unknown, path: string): Generator<[path: string, value: unknown]> {
  for (const [name, junk] of JUNK) yield [`${path} = ${name}`, junk]
  if (!isPlain(value)) return
  for (const [key, inner] of Object.entries(value)) {
    for (const [where, junk] of spoilt(inner, `${path}.${key}`)) {
      yield [where, Array.isArray(value) ? [junk] : { ...value, [key]: junk }]
    }
  }
}

/** Options that are null or missing are left to types: to refuse them in words takes a line in every door. */
const isOptions = (argument: unknown) => isPlain(argument) && !Array.isArray(argument)

function* calls(args: unknown[]): Generator<[path: string, args: unknown[]]> {
  for (const [index, argument] of args.entries()) {
    for (const [path, junk] of spoilt(argument, String(index))) {
      const isLeftOut = path.startsWith(`${index} = `) && junk == null && isOptions(argument)
      if (!isLeftOut) yield [path, args.with(index, junk)]
    }
  }
}

const every = { ...queries, ...adopt, ...budgets, ...partitions, ...spaceIndex, ...usageDaily }
const functions = new Map<string, (...args: unknown[]) => unknown>(
  Object.entries(every).flatMap(([name, value]) =>
    typeof value === 'function' ? [[name, value as (...args: unknown[]) => unknown]] : [],
  ),
)

test('every exported function has an example', () => {
  expect(Object.keys(DOORS).sort()).toEqual([...functions.keys()].sort())
})

/** What a call came to, and whether the transaction went on after a refusal at the door. */
async function outcome(db: Database, work: () => unknown): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    if (!(error instanceof ValidationError)) return error
    return rowsOf(db, sql`select 1`).then(
      () => error,
      () => new Error(`the transaction is lost by ${error}`),
    )
  }
}

/** Which calls of a door throw what is no error of plinth's. */
async function findRaw(name: string, attempt: (values: unknown[]) => Promise<unknown>) {
  const [, ...args] = DOORS[name] ?? ['nowhere']
  // Of adoptVectors there is no table to be adopted.
  if (name !== 'adoptVectors') {
    expect(await attempt(args), 'the example').not.toBeInstanceOf(ValidationError)
  }
  const raw: string[] = []
  for (const [path, values] of calls(args)) {
    const error = await attempt(values)
    const isRaw = error !== undefined && !(error instanceof PlinthError)
    if (isRaw) raw.push(`${path}: ${error}`.slice(0, 300))
  }
  return raw
}

test.for(Object.keys(DOORS))(
  '%s answers or refuses whatever comes',
  { timeout: 180_000 },
  async (name, { db }) => {
    const [where] = DOORS[name] ?? ['nowhere']
    const door = functions.get(name) ?? (() => {})
    const within = (outer: Database, work: (tx: Database) => unknown) =>
      rollback(outer, (tx) => outcome(tx, () => work(tx))).catch((error: unknown) => error)
    const find = () =>
      findRaw(name, (values) =>
        within(db, (tx) => (where === 'nowhere' ? door(...values) : door(tx, ...values))),
      )
    const findInScope = async () =>
      inTenant(db, await makeScope(db), (tenant) =>
        findRaw(name, (values) =>
          within(tenant.db, (tx) => door({ ...tenant, db: tx }, ...values)),
        ),
      )
    expect(await (where === 'scope' ? findInScope() : find())).toEqual([])
  },
)
