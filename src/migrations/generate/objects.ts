import { isDeepStrictEqual } from 'node:util'
import type { ManagedObject } from '../../schema/managed.ts'
import { readStatements } from '../advice/parse.ts'
import { partsOf, type Thing } from './references.ts'

const NAME = String.raw`(?:"(?:[^"]|"")+"|[\w$]+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|[\w$]+))*`
const CREATES = new RegExp(
  String.raw`^create\s+(?:or\s+replace\s+)?(?:temporary\s+|unlogged\s+|constraint\s+|recursive\s+)*(schema|table|(?:materialized\s+)?view|sequence|type|domain|function|procedure|aggregate)\s+(?:if\s+not\s+exists\s+)?(${NAME})`,
  'i',
)

/** A thing's schema and name, as they are written. */
export function splitName(name: string): { schema: string; name: string } {
  const parts = partsOf(name)
  return { schema: parts.at(-2) ?? 'public', name: parts.at(-1) ?? '' }
}

/** What a statement creates under a name that others may use. */
export function createdBy(create: string): Thing[] {
  const [, kind = '', name = ''] = CREATES.exec(create) ?? []
  if (!name) {
    const [, table] =
      new RegExp(String.raw`^alter\s+table\s+(${NAME})[\s\S]*\badd constraint`, 'i').exec(create) ??
      []
    const isKey = /\b(unique|primary key)\s*\(/i.test(create)
    return table && isKey ? [{ kind: 'key', ...splitName(table) }] : []
  }
  const thing = splitName(name)
  switch (kind.toLowerCase()) {
    case 'schema':
      return [{ kind: 'schema', schema: thing.name, name: thing.name }]
    case 'function':
    case 'procedure':
    case 'aggregate':
      return [{ kind: 'function', ...thing }]
    case 'type':
    case 'domain':
      return [{ kind: 'type', ...thing }]
    default:
      return [{ kind: 'relation', ...thing }]
  }
}

const TARGETS =
  /^(?:comment\s+on\s+(?:table|view|materialized\s+view|function|type)|alter\s+table|(?:grant|revoke)\s[\s\S]*?\son)\s+([\s\S]+?)\s+(?:is|alter|drop|add|to|from)\s/i

/**
 * What a statement is about and vanishes with: the table of a grant, a comment or a constraint. None where
 * it stands by itself.
 */
export function targetsOf({ create }: ManagedObject): Thing[] {
  const [, list = ''] = TARGETS.exec(create) ?? []
  // The types of a function's arguments are no part of its name.
  const names = list.replace(/\([^()]*\)/g, '').split(',')
  return names.flatMap((text): Thing[] => {
    const [, kind = '', name = ''] =
      new RegExp(
        String.raw`^\s*(?:(function|procedure|routine|schema|sequence|table|type)\s+)?(${NAME})\s*$`,
        'i',
      ).exec(text) ?? []
    if (!name) return []
    const thing = splitName(name)
    if (/^(function|procedure|routine)$/i.test(kind) || /^comment\s+on\s+function/i.test(create)) {
      return [{ kind: 'function', ...thing }]
    }
    if (/^schema$/i.test(kind)) return [{ kind: 'schema', schema: thing.name, name: thing.name }]
    if (/^type$/i.test(kind) || /^comment\s+on\s+type/i.test(create))
      return [{ kind: 'type', ...thing }]
    return [{ kind: 'relation', ...thing }]
  })
}

/** Statements that may simply be repeated in another wording. */
const REPEATABLE = /^(comment\s+on|create\s+(extension|schema)|do\b|select\b|call\b)/i

/** Whether a changed object may be made over the old one, without a drop. */
export async function isReplaceable(old: ManagedObject, next: ManagedObject): Promise<boolean> {
  if (old.drop === undefined || REPEATABLE.test(next.create)) return true
  if (/^alter\s+table\s[\s\S]*\sset\s+storage\s/i.test(next.create)) return true
  if (!/^create\s+or\s+replace\s+(function|procedure)\b/i.test(next.create)) return false
  const [before, after] = await Promise.all([signatureOf(old.create), signatureOf(next.create)])
  return before !== undefined && isDeepStrictEqual(before, after)
}

/** Name, parameters and result of a function: what `create or replace` cannot change. */
async function signatureOf(create: string) {
  const [statement] = (await readStatements([create])).statements
  if (!statement || !('CreateFunctionStmt' in statement.node)) return
  const { funcname, parameters, returnType, is_procedure } = statement.node.CreateFunctionStmt
  return withoutPlaces({ funcname, parameters, returnType, is_procedure })
}

/** A piece of a syntax tree without where it stands in the text. */
const withoutPlaces = (tree: unknown): unknown =>
  JSON.parse(JSON.stringify(tree), (key, value) => (key === 'location' ? undefined : value))

/** Whether the object is a statement that only a new table or database needs, such as for partitions. */
export const isCall = ({ name }: ManagedObject) => name.startsWith('call ')
