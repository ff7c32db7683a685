import { ValidationError } from './errors.ts'
import { checkList, checkText } from './validation.ts'

export type MetadataValue = string | number | boolean | null

/** What a value of the metadata, or one item of a list there, has to be. All that is given has to hold. */
export interface MetadataCondition {
  /** The value itself, of the same type: the number 1 is not the text '1'. */
  eq?: MetadataValue
  /** One of these, up to 1,000. */
  in?: readonly MetadataValue[]
  /** Above, at or below a number, or a text by its code points, as ISO dates are. */
  gt?: string | number
  gte?: string | number
  lt?: string | number
  lte?: string | number
  /** A list that has this item, or all of these. */
  contains?: MetadataValue | readonly MetadataValue[]
  /** Whether there is a value at all; null is one. */
  exists?: boolean
}

/**
 * Conditions on metadata by key. A dot leads into an object, or into those of a list: `author.name`. A plain
 * value means `eq`, a list of them `in`.
 */
export type MetadataFilter = Readonly<
  Record<string, MetadataValue | readonly MetadataValue[] | MetadataCondition>
>

const MAX_CONDITIONS = 50
const MAX_VALUES = 1_000
const COMPARISONS = { gt: '>', gte: '>=', lt: '<', lte: '<=' } as const
const OPERATORS = ['eq', 'in', 'contains', 'exists', ...Object.keys(COMPARISONS)]

/**
 * The filter as one SQL/JSON path predicate, in which keys and values are JSON literals and so are never
 * code. What is not there, or of another type, does not match.
 *
 * @throws {ValidationError} for an unknown operator, and for what JSON cannot hold.
 */
export function metadataPath(filter: MetadataFilter): string {
  if (typeof filter !== 'object' || filter === null || Array.isArray(filter)) {
    throw new ValidationError('metadata', 'must be an object of conditions by key')
  }
  const entries = Object.entries(filter)
  if (entries.length === 0 || entries.length > MAX_CONDITIONS) {
    throw new ValidationError('metadata', `must have 1 to ${MAX_CONDITIONS} conditions`)
  }
  const terms = entries.flatMap(([key, condition]) => {
    const argument = `metadata.${key}`
    checkText(argument, key, { max: 200 })
    const path = ['$', ...key.split('.').map((part) => JSON.stringify(part))].join('.')
    return termsOf(argument, path, conditionOf(condition))
  })
  return terms.join(' && ')
}

const isList = (value: unknown): value is readonly MetadataValue[] => Array.isArray(value)

const conditionOf = (
  value: MetadataValue | readonly MetadataValue[] | MetadataCondition,
): MetadataCondition => {
  if (isList(value)) return { in: value }
  return typeof value === 'object' && value !== null ? value : { eq: value }
}

function termsOf(argument: string, path: string, condition: MetadataCondition): string[] {
  const given = Object.entries(condition).filter(([, value]) => value !== undefined)
  if (given.length === 0) {
    throw new ValidationError(argument, `must have one of ${OPERATORS.join(', ')}`)
  }
  return given.map(([operator, value]: [string, unknown]) => {
    const at = `${argument}.${operator}`
    switch (operator) {
      case 'eq':
        return `${path} == ${literal(at, value)}`
      case 'in':
        return `(${values(at, value)
          .map((one) => `${path} == ${one}`)
          .join(' || ')})`
      case 'contains':
        return values(at, isList(value) ? value : [value])
          .map((one) => `${path} == ${one}`)
          .join(' && ')
      case 'exists':
        if (typeof value !== 'boolean') throw new ValidationError(at, 'must be true or false')
        return `${value ? '' : '!'}(exists(${path}))`
      case 'gt':
      case 'gte':
      case 'lt':
      case 'lte':
        if (typeof value !== 'string' && typeof value !== 'number') {
          throw new ValidationError(at, 'must be a number or a text')
        }
        return `${path} ${COMPARISONS[operator]} ${literal(at, value)}`
      default:
        throw new ValidationError(at, `is no operator; there are ${OPERATORS.join(', ')}`)
    }
  })
}

function values(argument: string, list: unknown): string[] {
  checkList(argument, list, { min: 1, max: MAX_VALUES })
  return list.map((value, at) => literal(`${argument}[${at}]`, value))
}

/** A value as JSON, of which the path language takes every literal. */
function literal(argument: string, value: unknown): string {
  if (typeof value === 'string') checkText(argument, value, { min: 0, max: 10_000 })
  else if (typeof value === 'number' ? !Number.isFinite(value) : !isPlain(value)) {
    throw new ValidationError(argument, 'must be a text, a finite number, a boolean or null')
  }
  // A negative number is an operation of the path language, with a binding of its own.
  return typeof value === 'number' && value < 0 ? `(${value})` : JSON.stringify(value)
}

const isPlain = (value: unknown) => typeof value === 'boolean' || value === null
