import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressKey } from '../src/addresses.ts'
import { ValidationError } from '../src/errors.ts'

describe('addressKey', () => {
  test.for([
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['::FFFF:c000:0207', '192.0.2.7'],
    ['0:0:0:0:0:ffff:192.0.2.7', '192.0.2.7'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['2001:0DB8:0:0:1234:5678:9abc:def0', '2001:db8:0:0::/64'],
    ['2001:db8:0:1::1', '2001:db8:0:1::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['::', '0:0:0:0::/64'],
    ['64:ff9b::192.0.2.7', '64:ff9b:0:0::/64'],
    ['1:2:3:4:5:6:7::', '1:2:3:4::/64'],
  ] as const)('%s is %s', ([address, key]) => {
    expect(addressKey(address)).toBe(key)
  })

  test('all of a /64 are one, and of another /64 another, however written', () => {
    const group = fc.integer({ min: 0, max: 0xffff })
    const groups = fc.array(group, { minLength: 4, maxLength: 4 })
    const hex = (parts: number[]) => parts.map((part) => part.toString(16)).join(':')
    fc.assert(
      fc.property(groups, groups, groups, (net, one, two) => {
        fc.pre(net.some((part) => part !== 0))
        const short = new URL(`http://[${hex([...net, ...one])}]`).hostname.slice(1, -1)
        expect(addressKey(short)).toBe(addressKey(hex([...net, ...two]).toUpperCase()))
        expect(addressKey(short)).toBe(`${hex(net)}::/64`)
      }),
    )
  })

  test.for(['', 'a', '1.2.3', '01.2.3.4', '1.2.3.4:80', '[::1]', '::1/64', ':::'])(
    'refuses %s',
    (address) => {
      expect(() => addressKey(address)).toThrow(ValidationError)
    },
  )
})
