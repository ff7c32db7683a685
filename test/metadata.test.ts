import { sql } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect, test as plain } from 'vitest'
import { only, rowsOf } from '../src/database.ts'
import { ValidationError } from '../src/errors.ts'
import {
  type MetadataCondition,
  type MetadataFilter,
  type MetadataValue,
  metadataPath,
} from '../src/metadata.ts'
import { test } from './support/database.ts'

type Scalar = MetadataValue
type Metadata = Record<string, Scalar | Scalar[] | Record<string, Scalar>>

/** What the operators mean, over plain objects. */
function holds(value: unknown, condition: MetadataCondition): boolean {
  const items: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value]
  const isAny = (test: (item: unknown) => boolean) => items.some(test)
  return Object.entries(condition).every(([operator, wanted]: [string, unknown]) => {
    const below = (a: unknown, b: unknown) =>
      (typeof a === 'number' && typeof b === 'number' && a < b) ||
      (typeof a === 'string' && typeof b === 'string' && a < b)
    switch (operator) {
      case 'eq':
        return isAny((item) => item === wanted)
      case 'in':
        return isAny((item) => Array.isArray(wanted) && wanted.includes(item))
      case 'contains':
        return [wanted].flat().every((one) => isAny((item) => item === one))
      case 'exists':
        return (value !== undefined) === wanted
      case 'gt':
        return isAny((item) => below(wanted, item))
      case 'gte':
        return isAny((item) => item === wanted || below(wanted, item))
      case 'lt':
        return isAny((item) => below(item, wanted))
      default:
        return isAny((item) => item === wanted || below(item, wanted))
    }
  })
}

const scalar: fc.Arbitrary<Scalar> = fc.oneof(
  fc.constantFrom('a', 'b', 'it\'s "c"', '$.x || true', ''),
  fc.constantFrom(-1.5, 0, 1, 2e20, 3),
  fc.boolean(),
  fc.constant(null),
)
const key = fc.constantFrom('year', 'tags', 'a "b"', '$', 'x\\y')
const metadata: fc.Arbitrary<Metadata> = fc.dictionary(
  key,
  fc.oneof(scalar, fc.array(scalar, { maxLength: 3 }), fc.record({ name: scalar })),
)
const comparable = fc.constantFrom<string | number>('a', 'b', 0, 1, -1.5)
const condition: fc.Arbitrary<MetadataCondition> = fc.oneof(
  fc.record({ eq: scalar }),
  fc.record({ in: fc.array(scalar, { minLength: 1, maxLength: 3 }) }),
  fc.record({ contains: fc.oneof(scalar, fc.array(scalar, { minLength: 1, maxLength: 2 })) }),
  fc.record({ exists: fc.boolean() }),
  fc.record({ gt: comparable }),
  fc.record({ gte: comparable, lt: comparable }),
  fc.record({ lte: comparable }),
)
const filter: fc.Arbitrary<Record<string, MetadataCondition>> = fc.dictionary(
  fc.oneof(
    key,
    key.map((one) => `${one}.name`),
  ),
  condition,
  { minKeys: 1, maxKeys: 3 },
)

describe('a filter of metadata', () => {
  test('is what plain objects say', async ({ db }) => {
    let matched = 0
    await fc.assert(
      fc.asyncProperty(
        fc.array(metadata, { minLength: 5, maxLength: 20 }),
        filter,
        async (all, given) => {
          const byHand = all.map((one) =>
            Object.entries(given).every(([path, wanted]) => {
              const [first = '', rest] = path.split(/\.(?=name$)/)
              const value = one[first]
              if (rest === undefined) return holds(value, wanted)
              const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
              return holds(isObject ? value[rest] : undefined, wanted)
            }),
          )
          const { found } = only(
            await rowsOf<{ found: boolean[] | null }>(
              db,
              sql`select json_agg(coalesce(one::jsonb @@ ${metadataPath(given)}::text::jsonpath, false) order by at) as found
              from json_array_elements(${JSON.stringify(all)}::text::json) with ordinality e (one, at)`,
            ),
          )
          matched += byHand.filter(Boolean).length
          expect(found ?? []).toEqual(byHand)
        },
      ),
      { numRuns: 300, endOnFailure: true },
    )
    expect(matched).toBeGreaterThan(20)
  })

  plain.each<[string, unknown]>([
    ['no condition', {}],
    ['a list', []],
    ['an unknown operator', { a: { near: 1 } }],
    ['no operator', { a: {} }],
    ['an empty list', { a: { in: [] } }],
    ['NaN', { a: { gt: Number.NaN } }],
    ['infinity', { a: Number.POSITIVE_INFINITY }],
    ['a comparison with a boolean', { a: { gt: true } }],
    ['an object as a value', { a: { eq: { b: 1 } } }],
    ['NUL', { a: 'x\0' }],
    ['half a surrogate pair in a key', { '\ud800': 1 }],
    ['an empty key', { '': 1 }],
    ['too many conditions', Object.fromEntries(Array.from({ length: 51 }, (_, at) => [at, 1]))],
  ])('refuses %s', (_, given) => {
    expect(() => metadataPath(given as MetadataFilter)).toThrow(ValidationError)
  })
})
