import { isIP } from 'node:net'
import { ValidationError } from './errors.ts'

// Every door checks what it is given before any SQL, so that a refusal leaves the transaction usable and
// says which argument was wrong. What Postgres would take and then get wrong is refused here: NUL and
// lone surrogates, NaN, dates at infinity, LIMIT null.

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** A value as it may stand in a message: short, and on one line. */
function shown(value: unknown): string {
  // An object may have no way to a text, or an own one that throws.
  const text =
    typeof value === 'string'
      ? JSON.stringify(value)
      : typeof value === 'object' && value !== null
        ? 'an object'
        : String(value)
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}

export interface TextBounds {
  /** In UTF-16 code units. */
  min?: number
  /** In UTF-16 code units; 1,000 unless said. */
  max?: number
}

/** Checks a text that is stored or compared: well-formed, without NUL, within its bounds. */
export function checkText(
  argument: string,
  value: unknown,
  { min = 1, max = 1_000 }: TextBounds = {},
): asserts value is string {
  if (typeof value !== 'string') throw new ValidationError(argument, 'must be a string')
  if (value.length < min) {
    throw new ValidationError(argument, min === 1 ? 'must not be empty' : `is shorter than ${min}`)
  }
  if (value.length > max) {
    throw new ValidationError(
      argument,
      `has ${value.length} characters; at most ${max} are allowed`,
    )
  }
  if (value.includes('\0')) throw new ValidationError(argument, 'contains a NUL character')
  if (!value.isWellFormed()) throw new ValidationError(argument, 'contains half a surrogate pair')
}

/** The beginning of somebody else's text, as a text column takes it: without NUL and half surrogate pairs. */
export const keptText = (text: string, max: number): string =>
  text.slice(0, max).replaceAll('\0', '\ufffd').toWellFormed()

// Both are in an index, at up to 3 bytes a UTF-16 code unit of the 2,704 that an entry may have.
export const MAX_PROVIDER = 100
export const MAX_MODEL = 300

/**
 * Checks the provider of a model. It has no slash: models may, and the first slash of a budget's subject,
 * `provider/model`, is where the model begins.
 */
export function checkProvider(argument: string, value: unknown): asserts value is string {
  checkText(argument, value, { max: MAX_PROVIDER })
  if (value.includes('/')) {
    throw new ValidationError(argument, 'contains a slash, which only the name of a model may')
  }
}

/** Checks an email address. It is kept as given; whether anyone reads it, only a delivery shows. */
export function checkEmail(argument: string, value: unknown): asserts value is string {
  checkText(argument, value, { max: 320 })
  if (!/^[^\s@]+@[^\s@]+$/.test(value))
    throw new ValidationError(argument, 'must be an email address')
}

/** Checks an IP address. Node takes a zone such as %eth0, which Postgres does not. */
export function checkIp(argument: string, value: unknown): asserts value is string {
  checkText(argument, value, { max: 45 })
  if (isIP(value) === 0 || value.includes('%')) {
    throw new ValidationError(argument, 'must be an IPv4 or IPv6 address, without mask or zone')
  }
}

/** Checks an identifier. */
export function checkUuid(argument: string, value: unknown): asserts value is string {
  if (typeof value !== 'string' || !UUID.test(value)) {
    throw new ValidationError(argument, `must be a UUID, not ${shown(value)}`)
  }
}

export interface NumberBounds {
  min?: number
  max?: number
}

/** Checks a whole number; from 0 unless said. */
export function checkInteger(
  argument: string,
  value: unknown,
  { min = 0, max = Number.MAX_SAFE_INTEGER }: NumberBounds = {},
): asserts value is number {
  if (!Number.isSafeInteger(value) || Number(value) < min || Number(value) > max) {
    throw new ValidationError(
      argument,
      `must be a whole number from ${min} to ${max}, not ${shown(value)}`,
    )
  }
}

/** Checks a number, whole or not; any finite one unless said. */
export function checkNumber(
  argument: string,
  value: unknown,
  { min = -Number.MAX_VALUE, max = Number.MAX_VALUE }: NumberBounds = {},
): asserts value is number {
  // NaN is in no range.
  if (typeof value !== 'number' || !(value >= min && value <= max)) {
    throw new ValidationError(
      argument,
      `must be a number from ${min} to ${max}, not ${shown(value)}`,
    )
  }
}

/** Checks how many rows are asked for. */
export const checkLimit = (value: unknown, max: number): void =>
  checkInteger('limit', value, { min: 1, max })

/** Checks an amount that is kept as bigint, and never negative. */
export function checkBigint(argument: string, value: unknown): asserts value is bigint {
  if (typeof value !== 'bigint' || value < 0n || value > 2n ** 63n - 1n) {
    throw new ValidationError(argument, `must be a bigint from 0 to 2^63-1, not ${shown(value)}`)
  }
}

/** Nothing that plinth keeps is older, and later years are how infinity comes in. */
const EARLIEST = Date.UTC(1900, 0, 1)
const LATEST = Date.UTC(9999, 11, 31)

/** Checks a point in time. */
export function checkInstant(argument: string, value: unknown): asserts value is Date {
  if (!(value instanceof Date) || Number.isNaN(value.getTime())) {
    throw new ValidationError(argument, 'must be a valid Date')
  }
  if (value.getTime() < EARLIEST || value.getTime() > LATEST) {
    throw new ValidationError(argument, 'is a Date outside the years 1900 to 9999')
  }
}

/** Checks the name of a time zone. Not an offset, nor a short name: Postgres reads +01:00 and CET in ways of its own. */
export function checkTimeZone(argument: string, value: unknown): asserts value is string {
  checkText(argument, value, { max: 100 })
  const problem = 'must be UTC or a name such as Europe/Berlin'
  if (value !== 'UTC' && !/^[A-Za-z_]+\/[\w+/-]+$/.test(value)) {
    throw new ValidationError(argument, problem)
  }
  try {
    new Intl.DateTimeFormat('en', { timeZone: value })
  } catch {
    throw new ValidationError(argument, problem)
  }
}

/** Checks that a value is one of a closed list. */
export function checkOneOf<T extends string>(
  argument: string,
  value: unknown,
  allowed: readonly T[],
): asserts value is T {
  if (!allowed.some((one) => one === value)) {
    throw new ValidationError(argument, `must be one of ${allowed.join(', ')}, not ${shown(value)}`)
  }
}

/** Checks a list's length. */
export function checkList(
  argument: string,
  value: unknown,
  { min = 0, max = 1_000 }: NumberBounds = {},
): asserts value is readonly unknown[] {
  if (!Array.isArray(value)) throw new ValidationError(argument, 'must be an array')
  if (value.length < min || value.length > max) {
    throw new ValidationError(
      argument,
      `has ${value.length} items; from ${min} to ${max} are allowed`,
    )
  }
  if (value.includes(undefined)) throw new ValidationError(argument, 'has a hole')
}

/**
 * Checks the fields of an item of a list, whose place is put in front of what is wrong: made only then,
 * since a thousand items have many thousand fields.
 */
export function checkItem<T>(argument: string, item: unknown, check: () => T): T {
  if (typeof item !== 'object' || item === null) {
    throw new ValidationError(argument, 'must be an object')
  }
  try {
    return check()
  } catch (error) {
    if (!(error instanceof ValidationError)) throw error
    throw new ValidationError(`${argument}.${error.argument}`, error.problem)
  }
}

/** Checks where the page of a list by time begins: after the last line of the one before. */
export const checkAfter = (after: { occurredAt: Date; id: string }): void =>
  checkItem('after', after, () => {
    checkInstant('occurredAt', after.occurredAt)
    checkUuid('id', after.id)
  })

/** Checks what is to be called. */
export function checkFunction(argument: string, value: unknown): void {
  if (typeof value !== 'function') throw new ValidationError(argument, 'must be a function')
}

/** The largest number that halfvec holds, and half of the smallest, which it rounds to 0. */
const HALF_MAX = 65_504
const HALF_TINY = 2 ** -25

/** Checks a vector that is to be stored or compared as halfvec: as long as it must be, finite, not zero. */
export function checkVector(
  argument: string,
  value: unknown,
  dimensions: number,
): asserts value is readonly number[] {
  if (!Array.isArray(value)) throw new ValidationError(argument, 'must be an array of numbers')
  if (value.length !== dimensions) {
    throw new ValidationError(
      argument,
      `has ${value.length} dimensions, and the space has ${dimensions}; was it made by another model?`,
    )
  }
  let largest = 0
  for (const number of value) {
    // NaN fails the comparison too.
    if (typeof number !== 'number' || !(Math.abs(number) <= HALF_MAX)) {
      throw new ValidationError(argument, `holds ${shown(number)}, which halfvec cannot`)
    }
    largest = Math.max(largest, Math.abs(number))
  }
  if (largest <= HALF_TINY) {
    throw new ValidationError(argument, 'is zero at half precision, which is near to nothing')
  }
}

/** How deep and how large an object in a jsonb column may be. */
const JSON_DEPTH = 20
const JSON_BYTES = 1_000_000

/**
 * Checks an object for a jsonb column: what JSON holds, without NUL, and not too large.
 *
 * @returns its JSON.
 */
export function checkJson(argument: string, value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ValidationError(argument, 'must be an object')
  }
  const json = checkJsonValue(argument, value)
  if (!json.startsWith('{')) throw new ValidationError(argument, 'must be an object as JSON')
  return json
}

/**
 * Checks any value for a jsonb column, as `checkJson` does an object.
 *
 * @returns its JSON.
 */
export function checkJsonValue(argument: string, value: unknown): string {
  const json = stringify(argument, value)
  // JSON escapes NUL and half a surrogate pair; without an escape there is none to look for. What a toJSON
  // has made is in the text only.
  const problem =
    findProblem(value, false) ?? (json.includes('\\u') && findProblem(JSON.parse(json), true))
  if (problem) throw new ValidationError(`${argument}${problem.path}`, problem.text)
  const size = Buffer.byteLength(json)
  if (size > JSON_BYTES) {
    throw new ValidationError(
      argument,
      `has ${size} bytes as JSON; at most ${JSON_BYTES} are allowed`,
    )
  }
  return json
}

function stringify(argument: string, value: unknown): string {
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch {
    throw new ValidationError(argument, 'holds a bigint or a circle, which JSON cannot')
  }
  if (json === undefined) throw new ValidationError(argument, 'must be a value that JSON has')
  return json
}

interface JsonProblem {
  path: string
  text: string
}

/**
 * A value that JSON or Postgres would refuse, or make another one of, and where. The path is made on the
 * way back only. What JSON leaves out, such as a function, is left out.
 */
function findProblem(value: unknown, inStrings: boolean, depth = 0): JsonProblem | undefined {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    return { path: '', text: `is ${value}, which JSON cannot hold` }
  }
  if (typeof value === 'string' && inStrings) return findInText(value)
  if (typeof value !== 'object' || value === null) return
  if (depth === JSON_DEPTH) return { path: '', text: `is nested deeper than ${JSON_DEPTH}` }
  for (const key in value) {
    const problem =
      (inStrings && findInText(key)) || findProblem(Reflect.get(value, key), inStrings, depth + 1)
    if (problem) return { ...problem, path: `.${shown(key).slice(1, -1)}${problem.path}` }
  }
}

function findInText(text: string): JsonProblem | undefined {
  if (text.includes('\0')) return { path: '', text: 'contains a NUL character' }
  if (!text.isWellFormed()) return { path: '', text: 'contains half a surrogate pair' }
}
