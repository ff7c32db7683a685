import { createHash } from 'node:crypto'

/** How many of the stack's own frames tell one error from another. */
const FRAMES = 3

/** Of a message, in UTF-16 code units: what tells errors apart comes first. */
const MAX_MESSAGE = 2_000

/**
 * A message without what differs from one occurrence to the next: quoted texts, UUIDs, hexadecimal and
 * other numbers.
 */
export const normalizeMessage = (message: string): string =>
  message
    .slice(0, MAX_MESSAGE)
    .replace(/"[^"\n]{0,500}"|'[^'\n]{0,500}'|`[^`\n]{0,500}`/g, '?')
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/gi, '?')
    .replace(/\b0x[0-9a-f]+\b|(?<![\w-])(?=[a-f]*[0-9])[0-9a-f]{8,}(?![\w-])/gi, '?')
    .replace(/\d+(?:[.,:]\d+)*/g, '?')
    .replace(/\s+/g, ' ')
    .trim()

/** Frames of Node and of packages, in which errors of many causes are thrown. */
const FOREIGN = /node_modules|\(node:|^node:|at node:|internal\/|<anonymous>\)?$/

/** The own frames of a stack, nearest first: the function and the end of its file's path, without lines. */
const ownFrames = (stack: string): string[] =>
  stack
    .split('\n', 60)
    .map((line) => line.slice(0, 500).trim())
    .filter((line) => line.startsWith('at ') && !FOREIGN.test(line))
    .slice(0, FRAMES)
    .map((line) => {
      const [, name = '', path = ''] = /^at (?:(.*) \()?([^()]*)\)?$/.exec(line) ?? []
      // Where it is installed differs, and so does what a bundler adds to a name.
      const file = path
        .replace(/(:\d+)+$/, '')
        .split(/[\\/]/)
        .slice(-2)
        .join('/')
      return `${name} ${file.replace(/[-.][0-9A-Za-z_]{8,}(?=\.\w+$)/, '')}`
    })

export interface FingerprintSubject {
  message: string
  code?: string | null
  stack?: string | null
}

/** Which errors have the same cause: by code, message and the nearest own frames. 32 hexadecimal digits. */
export const fingerprintOf = ({ message, code, stack }: FingerprintSubject): string =>
  createHash('sha256')
    .update(JSON.stringify([code ?? null, normalizeMessage(message), ownFrames(stack ?? '')]))
    .digest('hex')
    .slice(0, 32)
