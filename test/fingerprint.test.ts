import { expect, test } from 'vitest'
import { fingerprintOf, normalizeMessage } from '../src/fingerprint.ts'

const stack = (root: string, line: number, name = 'load') => `Error: x
    at Object.query (${root}/node_modules/pg/lib/client.js:${line}:1)
    at ${name} (${root}/src/queries/posts.ts:${line}:12)
    at async handle (${root}/src/server.ts:9:${line})
    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)`

test('messages that differ in numbers, ids and quoted texts are one', () => {
  const one =
    'User 42 ("ann") not found at 0x1f in 3.5 s: 01932018-4000-7000-8123-456789012345 9f86d081884c7d65'
  const two =
    'User 7 ("bo o") not found at 0xffe in 12.25 s: aaaaaaaa-4000-7000-8123-456789012345 60303ae22b998861'
  expect(normalizeMessage(one)).toBe(normalizeMessage(two))
  expect(normalizeMessage(one)).toContain('not found')
  expect(normalizeMessage('deadbeef accede facade')).toContain('accede facade')
})

test('stacks that differ in lines and in where they are installed are one, and other functions are not', () => {
  const of = (text: string) => fingerprintOf({ message: 'x', stack: text })
  expect(of(stack('/srv/app', 3))).toBe(of(stack('/home/ann/app', 77)))
  expect(of(stack('/srv/app', 3))).not.toBe(of(stack('/srv/app', 3, 'save')))
  expect(of(stack('/srv/app', 3))).not.toBe(of(''))
  expect(fingerprintOf({ message: 'x', code: 'A' })).not.toBe(fingerprintOf({ message: 'x' }))
  expect(of('at /srv/dist/chunk-A1B2C3D4.js:1:2')).toBe(of('at /srv/dist/chunk-Z9Y8X7W6.js:1:2'))
})

test('a megabyte takes no longer than a page', () => {
  for (const unit of ['"', "'a", 'a', '1', '1.', ' ', 'at (', 'at a (', '\n at ', '-'])
    for (const text of [unit.repeat(1_000_000 / unit.length)]) {
      const startedAt = performance.now()
      fingerprintOf({ message: text, stack: `x\n    at ${text}` })
      expect(performance.now() - startedAt, unit).toBeLessThan(10_000)
    }
})
