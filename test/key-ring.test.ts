import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ValidationError } from '../src/errors.ts'
import { openKeyRing } from '../src/key-ring.ts'

const [old, fresh] = [randomBytes(32), randomBytes(32)]
const ring = openKeyRing({ keys: { old, fresh: fresh.toString('base64') }, current: 'fresh' })
const context = ['table', 'a', 'b']
const reasonOf = (work: () => unknown) => {
  try {
    return work()
  } catch (error) {
    return error instanceof Error && 'reason' in error ? error.reason : error
  }
}

describe('a key ring', () => {
  test('opens what it has sealed, whatever it is, and never seals the same twice', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 50 }), (text) => {
        expect(ring.open(ring.seal(text, context), context)).toBe(text.toWellFormed())
        expect(ring.seal(text, context)).not.toEqual(ring.seal(text, context))
      }),
    )
  })

  test('opens by older keys too', () => {
    const before = openKeyRing({ keys: { old: old.toString('base64url') }, current: 'old' })
    expect(ring.open(before.seal('text', context), context)).toBe('text')
    expect(reasonOf(() => before.open(ring.seal('text', context), context))).toBe('unknown_key')
  })

  test('refuses an envelope of another place', () => {
    const envelope = ring.seal('text', context)
    for (const elsewhere of [
      ['table', 'a', 'c'],
      ['table', 'a'],
      ['table', 'ab', ''],
      ['tablea', 'b'],
    ]) {
      expect(reasonOf(() => ring.open(envelope, elsewhere))).toBe('tampered')
    }
  })

  test('refuses an envelope with any bit changed, and any other bytes, without a word of what is in it', () => {
    const envelope = ring.seal('plaintext', context)
    for (let bit = 0; bit < envelope.length * 8; bit += 1) {
      const changed = Buffer.from(envelope)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      const error = (() => {
        try {
          return ring.open(changed, context)
        } catch (error) {
          return error
        }
      })()
      expect(error).toMatchObject({ name: 'KeyRingError' })
      expect(inspect(error)).not.toMatch(/plaintext/)
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        expect(reasonOf(() => ring.open(bytes, context))).toMatch(/malformed|tampered|unknown_key/)
      }),
    )
    expect(reasonOf(() => ring.open(envelope.subarray(0, 20), context))).toBe('malformed')
  })

  test('shows no key, and takes none that is none', () => {
    const shown = inspect(ring, { depth: 9, showHidden: true }) + JSON.stringify(ring)
    for (const key of [old, fresh]) {
      expect(shown).not.toContain(key.toString('base64').slice(0, 10))
      expect(shown).not.toContain(key.toString('hex').slice(0, 10))
    }
    const short = randomBytes(31)
    for (const key of [
      short,
      short.toString('base64'),
      'x'.repeat(32),
      '',
      fresh.toString('hex'),
    ]) {
      const opening = () => openKeyRing({ keys: { a: key }, current: 'a' })
      expect(opening).toThrow(ValidationError)
      if (typeof key === 'string' && key) expect(opening).not.toThrow(key.slice(0, 8))
    }
    expect(() => openKeyRing({ keys: { a: old }, current: 'b' })).toThrow(ValidationError)
  })
})
