import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ValidationError } from '../src/errors.ts'
import {
  checkBigint,
  checkEmail,
  checkInstant,
  checkInteger,
  checkJson,
  checkLimit,
  checkList,
  checkOneOf,
  checkText,
  checkUuid,
  checkVector,
} from '../src/validation.ts'

const refused: [string, () => unknown][] = [
  ['a NUL', () => checkText('text', 'a\0b')],
  ['half a surrogate pair', () => checkText('text', 'a\ud800')],
  ['the other half', () => checkText('text', '\udc00a')],
  ['an empty text', () => checkText('text', '')],
  ['10 MB of text', () => checkText('text', 'x'.repeat(10_000_000))],
  ['no text at all', () => checkText('text', undefined)],
  ['a number for a text', () => checkText('text', 5)],
  ['SQL for an id', () => checkUuid('id', "' or true --")],
  ['an id with a tail', () => checkUuid('id', `${crypto.randomUUID()}'`)],
  ['an address without a host', () => checkEmail('email', 'ann@')],
  ['-1 rows', () => checkLimit(-1, 10)],
  ['0 rows', () => checkLimit(0, 10)],
  ['null rows', () => checkLimit(null, 10)],
  ['1e18 rows', () => checkLimit(1e18, 10)],
  ['NaN rows', () => checkLimit(Number.NaN, 10)],
  ['half a token', () => checkInteger('tokens', 0.5)],
  ['more than is exact', () => checkInteger('tokens', 2 ** 53)],
  ['a negative cost', () => checkBigint('cost', -1n)],
  ['a cost beyond bigint', () => checkBigint('cost', 2n ** 63n)],
  ['a cost as a number', () => checkBigint('cost', 1)],
  ['no date', () => checkInstant('at', new Date(Number.NaN))],
  ['a date at infinity', () => checkInstant('at', new Date(8.64e15))],
  ['a date before time', () => checkInstant('at', new Date(-8.64e15))],
  ['a date as a text', () => checkInstant('at', '2026-01-01')],
  ['what is not on the list', () => checkOneOf('kind', 'c', ['a', 'b'])],
  ['too many', () => checkList('items', [1, 2, 3], { max: 2 })],
  ['an object for a list', () => checkList('items', { length: 1 })],
  ['a zero vector', () => checkVector('vector', [0, 0], 2)],
  ['what is zero at half precision', () => checkVector('vector', [1e-8, 0], 2)],
  ['NaN in a vector', () => checkVector('vector', [Number.NaN, 1], 2)],
  ['infinity in a vector', () => checkVector('vector', [Number.NEGATIVE_INFINITY, 1], 2)],
  ['more than half precision holds', () => checkVector('vector', [65_505, 1], 2)],
  ['another dimension', () => checkVector('vector', [1], 2)],
  ['a hole in a vector', () => checkVector('vector', [1, undefined], 2)],
  ['a list for an object', () => checkJson('data', [])],
  ['null for an object', () => checkJson('data', null)],
  ['a nested NaN', () => checkJson('data', { a: [{ b: Number.NaN }] })],
  ['a nested bigint', () => checkJson('data', { a: 1n })],
  ['a circle', () => checkJson('data', circle())],
  ['a NUL in a key', () => checkJson('data', { 'a\0': 1 })],
  ['half a pair in a value', () => checkJson('data', { a: { b: 'x\ud83d' } })],
  ['a deep object', () => checkJson('data', deep(30))],
  ['a large object', () => checkJson('data', { a: 'x'.repeat(1_000_001) })],
]

function circle() {
  const object: Record<string, unknown> = {}
  object.self = object
  return object
}
const deep = (levels: number): object => (levels === 0 ? {} : { a: deep(levels - 1) })

test.each(refused)('refuses %s', (_, check) => {
  expect(check).toThrow(ValidationError)
})

test('takes what is in order', () => {
  checkText('text', 'Grüße 👋')
  checkText('text', '', { min: 0 })
  checkUuid('id', crypto.randomUUID())
  checkLimit(10, 10)
  checkBigint('cost', 0n)
  checkInstant('at', new Date())
  checkVector('vector', [65_504, -1e-3], 2)
  expect(checkJson('data', { a: [1, null, '\\u0000', 'é\n'], b: deep(10) })).toContain('\\\\u0000')
})

test('says where in an object the trouble is, and shows no long value', () => {
  expect(() => checkJson('data', { a: { 'b c': ['fine', 'x\0'] } })).toThrow(
    'data.a.b c.1 contains',
  )
  const secret = 'x'.repeat(500)
  expect(() => checkOneOf('kind', secret, ['a'])).toThrow(/^.{0,120}$/)
})

test('the JSON that is taken comes back as it was', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue()), (object) => {
      fc.pre(!JSON.stringify(object).includes('\\u0000'))
      try {
        expect(JSON.parse(checkJson('data', object))).toEqual(JSON.parse(JSON.stringify(object)))
      } catch (error) {
        // fast-check makes halves of surrogate pairs too.
        expect(error).toBeInstanceOf(ValidationError)
        expect(JSON.stringify(object)).toMatch(/\\u/)
      }
    }),
  )
})
