import { isDeepStrictEqual } from 'node:util'
import { MigrationError } from '../../errors.ts'
import type { Entity, Rename, RenameKind } from './kit.ts'

/** What a created entity may be: one that was renamed, or a new one. */
export interface Question {
  readonly kind: string
  /** Such as `app.posts.headline`. */
  readonly name: string
  /** The flags to choose from: a rename of each entity of the kind that is gone, or a new one. */
  readonly answers: readonly string[]
}

/** It has to be known whether what is gone was dropped or renamed. The message lists the flags. */
export class OpenQuestionsError extends MigrationError {
  readonly questions: readonly Question[]

  constructor(questions: readonly Question[]) {
    super(
      [
        'renamed, or dropped and new? Generate again with one flag for each:',
        ...questions.map(({ kind, name, answers }) => `${kind} ${name}: ${answers.join(' or ')}`),
      ].join('\n'),
    )
    this.questions = questions
  }
}

export interface Answers {
  /** `from` to `to`, each such as `app.posts.title`; the schema is `public` where it is left out. */
  readonly renames?: readonly { readonly from: string; readonly to: string }[]
  /** What is new although something of its kind is gone. */
  readonly creates?: readonly string[]
  /** That all which is new is new. */
  readonly isNothingRenamed?: boolean
}

/** Kinds that hold data, so that a rename is not a drop; in the order in which drizzle-kit asks. */
const ASKED = [
  ['schemas', 'schema'],
  ['enums', 'enum'],
  ['sequences', 'sequence'],
  ['tables', 'table'],
  ['columns', 'column'],
] as const

/** Kinds that are renamed where nothing but the name differs. */
const MATCHED = [
  ['uniques', 'unique'],
  ['indexes', 'index'],
  ['pks', 'primary_key'],
  ['fks', 'foreign key'],
] as const

/** The name of an entity, by parts: as many as drizzle-kit has for its kind. */
export const pathOf = (entity: Entity): readonly string[] => {
  const { schema, table, name = '' } = entity as { schema?: string; table?: string; name?: string }
  return [schema, table, name].filter((part) => part !== undefined)
}

/** What tells one entity from all others of its state. */
export const keyOf = (entity: Entity) => [entity.entityType, ...pathOf(entity)].join('\0')

const same = (a: readonly string[], b: readonly string[]) =>
  a.length === b.length && a.every((part, at) => part === b[at])

const dotted = (path: readonly string[]) => path.join('.')

/** An entity as it is after a rename; itself, where that does not concern it. */
export function renamed(entity: Entity, { kind, from, to }: Rename): Entity {
  const copy: Record<string, unknown> = { ...entity }
  const [schema, table, name] = from
  const [newSchema, newTable, newName] = to
  const set = (key: string, value: unknown) => {
    copy[key] = value
  }
  const inTable = copy.schema === schema && copy.table === table
  const toTable = copy.schemaTo === schema && copy.tableTo === table
  const swap = (columns: unknown) =>
    (columns as string[]).map((column) => (column === name ? newName : column))

  if (kind === 'schema') {
    for (const key of ['schema', 'schemaTo', 'typeSchema']) {
      if (copy[key] === schema) set(key, newSchema)
    }
    if (entity.entityType === 'schemas' && entity.name === schema) set('name', newSchema)
  } else if (kind === 'table') {
    if (inTable) Object.assign(copy, { schema: newSchema, table: newTable })
    if (toTable) Object.assign(copy, { schemaTo: newSchema, tableTo: newTable })
  } else if (kind === 'enum' && entity.entityType === 'columns') {
    if (entity.typeSchema === schema && entity.type === table) {
      Object.assign(copy, { typeSchema: newSchema, type: newTable })
    }
  } else if (kind === 'column') {
    if (inTable && entity.entityType === 'indexes') {
      set(
        'columns',
        entity.columns.map((column) =>
          !column.isExpression && column.value === name ? { ...column, value: newName } : column,
        ),
      )
    } else if (inTable && Array.isArray(copy.columns)) set('columns', swap(copy.columns))
    if (toTable) set('columnsTo', swap(copy.columnsTo))
  }
  if (KIND_OF[entity.entityType] === kind && same(pathOf(entity), from)) {
    const keys =
      to.length === 3 ? ['schema', 'table', 'name'] : ['schema', 'name'].slice(-to.length)
    for (const [at, key] of keys.entries()) set(key, to[at])
    // drizzle-kit would keep a name that nobody wrote.
    if ('nameExplicit' in copy) set('nameExplicit', true)
  }
  return copy as unknown as Entity
}

const KIND_OF: Record<string, RenameKind | undefined> = Object.fromEntries([...ASKED, ...MATCHED])

const renameAll = (state: readonly Entity[], rename: Rename) =>
  state.map((entity) => renamed(entity, rename))

/**
 * Which entities of `prev` are in `next` under another name, as `answers` say.
 *
 * @throws {OpenQuestionsError} where they do not say it; {MigrationError} for an answer that fits nothing.
 */
export function resolveRenames(
  prev: readonly Entity[],
  next: readonly Entity[],
  { renames: wanted = [], creates = [], isNothingRenamed = false }: Answers = {},
): Rename[] {
  const found: Rename[] = []
  const questions: Question[] = []
  const unused = new Set<string>([...creates, ...wanted.map(flagOf)])
  let state = [...prev]

  for (const [entityType, kind] of ASKED) {
    for (const [gone, made] of missing(state, next, entityType)) {
      const left = [...gone]
      for (const path of made) {
        const answer = wanted.find(({ from, to }) => means(path, to) && parentOf(from, path))
        const source = answer && left.find((candidate) => means(candidate, last(answer.from, path)))
        if (answer && source) {
          unused.delete(flagOf(answer))
          found.push({ kind, from: source, to: path })
          left.splice(left.indexOf(source), 1)
          continue
        }
        const created = creates.find((name) => means(path, name))
        if (created !== undefined) unused.delete(created)
        else if (left.length > 0 && !isNothingRenamed) {
          questions.push({
            kind,
            name: dotted(path),
            answers: [
              ...left.map((from) => `--rename ${dotted(from)}=${dotted(path)}`),
              `--create ${dotted(path)}`,
            ],
          })
        }
      }
    }
    for (const rename of found.filter((rename) => rename.kind === kind)) {
      state = renameAll(state, rename)
    }
  }
  if (questions.length > 0) throw new OpenQuestionsError(questions)
  const [stray] = unused
  if (stray !== undefined) {
    throw new MigrationError(
      `${stray} fits nothing that is new; write what is gone to the left of =, and what is new to the right, as schema.table.column`,
    )
  }
  return [...found, ...matches(state, next)]
}

const flagOf = ({ from, to }: { from: string; to: string }) => `${from}=${to}`

const partsOf = (name: string) => name.replaceAll('"', '').split('.')

/** Whether `name` may be short for the path: without a schema, it is public. */
const means = (path: readonly string[], name: string) => {
  const parts = partsOf(name)
  return same(path, parts) || (path.length > 1 && same(path, ['public', ...parts]))
}

/** Whether a `from` has as many parts as the kind of the path. */
const parentOf = (from: string, path: readonly string[]) => {
  const { length } = partsOf(from)
  return length === path.length || (path.length > 1 && length === path.length - 1)
}

/** A column's old name, in the table as it is called now: the table may have been renamed as well. */
const last = (from: string, path: readonly string[]) =>
  path.length === 3 ? dotted([...path.slice(0, 2), partsOf(from).at(-1) ?? '']) : from

/** The entities of a kind that are gone and that are new, columns by table. */
function missing(prev: readonly Entity[], next: readonly Entity[], entityType: string) {
  const groups = new Map<string, [string[][], string[][]]>()
  const add = (of: readonly Entity[], other: readonly Entity[], side: 0 | 1) => {
    const known = new Set(other.map(keyOf))
    for (const entity of of) {
      if (entity.entityType !== entityType || known.has(keyOf(entity))) continue
      const path = [...pathOf(entity)]
      const group = path.length === 3 ? dotted(path.slice(0, 2)) : ''
      const lists = groups.get(group) ?? [[], []]
      groups.set(group, lists)
      lists[side].push(path)
    }
  }
  add(prev, next, 0)
  add(next, prev, 1)
  // The columns of a table that is new or gone are no question.
  return [...groups.values()].filter(([gone, made]) => gone.length > 0 && made.length > 0)
}

const definitionOf = (entity: Entity) => {
  const {
    name: _,
    nameExplicit: __,
    concurrently: ___,
    ...rest
  } = entity as Record<string, unknown> & Entity
  return rest
}

/** A name that nobody wrote stays as it is, even where the next one would be another. */
const isNamedByKit = (...entities: Entity[]) =>
  entities.every((entity) => 'nameExplicit' in entity && !entity.nameExplicit)

/** Indexes and keys of which nothing but the name has changed, and which are alone in that. */
function matches(prev: readonly Entity[], next: readonly Entity[]): Rename[] {
  return MATCHED.flatMap(([entityType, kind]) =>
    missing(prev, next, entityType).flatMap(([gone, made]) => {
      const find = (state: readonly Entity[], path: string[]) =>
        state.find((entity) => entity.entityType === entityType && same(pathOf(entity), path))
      return made.flatMap((to) => {
        const definition = find(next, to)
        const equal = gone.filter((from) => {
          const old = find(prev, from)
          if (!old || !definition || isNamedByKit(old, definition)) return false
          return isDeepStrictEqual(definitionOf(old), definitionOf(definition))
        })
        const [from] = equal
        return from && equal.length === 1 ? [{ kind, from, to }] : []
      })
    }),
  ).filter(
    (rename, _, all) =>
      all.filter((other) => other.kind === rename.kind && same(other.from, rename.from)).length ===
      1,
  )
}

/** The renames that lead back. */
export function invertRenames(renames: readonly Rename[]): Rename[] {
  const inverse: Rename[] = []
  // `from` of a column is in its new table, and has to be in the old one on the way back.
  const before = (path: readonly string[], at: number): string[] =>
    renames
      .slice(0, at)
      .reverse()
      .reduce<string[]>(
        (now, { kind, from, to }) => {
          if (kind === 'schema' && now[0] === to[0]) return [from[0] ?? '', ...now.slice(1)]
          if (kind === 'table' && now.length === 3 && same(now.slice(0, 2), to)) {
            return [...from, now[2] ?? '']
          }
          return now
        },
        [...path],
      )
  for (const [at, { kind, from, to }] of renames.entries()) {
    inverse.push({ kind, from: before(to, at), to: before(from, at) })
  }
  return inverse
}
