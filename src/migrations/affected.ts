import { isDeepStrictEqual } from 'node:util'
import type { ManagedObject } from '../schema/managed.ts'
import type { Entity, EntityOf } from './kit.ts'
import { createdBy, isCall, targetsOf } from './objects.ts'
import { type References, referencesOf, refersTo, type Thing } from './references.ts'
import { keyOf } from './renames.ts'

const NOTHING = { chains: [], words: new Set<string>() }
/** Without what stands in strings: Postgres keeps no track of that. */
const tracked = (text: string): References => ({ ...referencesOf(text), inside: NOTHING })

const quote = (...names: string[]) => names.map((name) => `"${name}"`).join('.')

/** The expressions of an entity, in which it refers to others. */
function expressionsOf(entity: Entity): string {
  switch (entity.entityType) {
    case 'columns':
      return [entity.default, entity.generated?.as].filter(Boolean).join(' ; ')
    case 'indexes':
      return [
        ...entity.columns.filter(({ isExpression }) => isExpression).map(({ value }) => value),
        entity.where,
      ].join(' ; ')
    case 'checks':
      return entity.value
    case 'policies':
      return `${entity.using ?? ''} ; ${entity.withCheck ?? ''}`
    case 'views':
      return entity.definition ?? ''
    default:
      return ''
  }
}

/** All that an entity refers to, as SQL. */
export function definitionOf(entity: Entity, state: readonly Entity[]): string {
  const expressions = expressionsOf(entity)
  switch (entity.entityType) {
    case 'tables': {
      const own = state.filter(
        (other) =>
          (other.entityType === 'columns' || other.entityType === 'checks') &&
          other.schema === entity.schema &&
          other.table === entity.name,
      )
      return [quote(entity.schema), ...own.map((child) => definitionOf(child, state))].join(' ; ')
    }
    case 'columns': {
      const type = entity.typeSchema ? quote(entity.typeSchema, entity.type) : entity.type
      return `${quote(entity.schema, entity.table)} ; ${type} ; ${expressions}`
    }
    case 'fks':
      return `${listed(entity)} references ${quote(entity.schemaTo, entity.tableTo)} (${entity.columnsTo.map((name) => quote(name)).join(', ')})`
    case 'indexes':
      return `create index ${quote(entity.schema, entity.table)} (${entity.columns.map(({ value, isExpression }) => (isExpression ? value : quote(value))).join(', ')}) ; ${expressions}`
    case 'pks':
    case 'uniques':
      return listed(entity)
    case 'checks':
    case 'policies':
      return `${quote(entity.schema, entity.table)} ; ${expressions}`
    case 'views':
      return `create view ${quote(entity.schema, entity.name)} as ${expressions}`
    case 'enums':
    case 'sequences':
      return quote(entity.schema, entity.name)
    default:
      return ''
  }
}

const listed = ({ schema, table, columns }: { schema: string; table: string; columns: string[] }) =>
  `${quote(schema, table)} (${columns.map((name) => quote(name)).join(', ')})`

/** What an entity is to those that refer to it. */
export function thingsOf(entity: Entity): Thing[] {
  switch (entity.entityType) {
    case 'schemas':
      return [{ kind: 'schema', schema: entity.name, name: entity.name }]
    case 'tables':
    case 'views':
    case 'sequences':
      return [{ kind: 'relation', schema: entity.schema, name: entity.name }]
    case 'enums':
      return [{ kind: 'type', schema: entity.schema, name: entity.name }]
    case 'columns':
      return [{ kind: 'column', schema: entity.schema, name: entity.table, column: entity.name }]
    case 'pks':
    case 'uniques':
      return [{ kind: 'key', schema: entity.schema, name: entity.table }]
    case 'indexes':
      return entity.isUnique ? [{ kind: 'key', schema: entity.schema, name: entity.table }] : []
    default:
      return []
  }
}

/** How a thing is disturbed: taken away, of another type, or one column more, which `*` would show. */
interface Disturbance {
  readonly thing: Thing
  readonly how: 'gone' | 'retyped' | 'widened'
  /** Of a key that is gone. */
  readonly columns?: readonly string[]
}

export interface Affected {
  /** Places in the state of what is taken away, to be made again where it is still declared. */
  readonly gone: Set<number>
  /** Places of columns whose default is taken away. */
  readonly defaults: Set<number>
  /** The objects that have to be made again. */
  readonly objects: Set<ManagedObject>
}

export interface FindAffectedOptions {
  state: readonly Entity[]
  objects: readonly ManagedObject[]
  /** Places in the state of what is taken away in any case. */
  gone: Iterable<number>
  /** Places of columns that get another type. */
  retyped: Iterable<number>
  /** Relations whose columns are no longer the same. */
  widened: readonly Thing[]
  /** Objects that are taken away in any case. */
  removed: readonly ManagedObject[]
}

/** Finds what stands in the way of a change: whatever refers to what is taken away or changes its type. */
export function findAffected(options: FindAffectedOptions): Affected {
  const { state, objects } = options
  const gone = new Set(options.gone)
  const affected: Affected = { gone, defaults: new Set(), objects: new Set(options.removed) }
  const queue: Disturbance[] = []
  const disturb = (place: number, how: Disturbance['how']) => {
    const entity = state[place]
    if (!entity) return
    const columns = keyColumns(entity)
    for (const thing of thingsOf(entity)) queue.push({ thing, how, ...(columns && { columns }) })
  }
  for (const place of gone) disturb(place, 'gone')
  for (const place of options.retyped) {
    disturb(place, 'retyped')
    const column = state[place]
    if (column?.entityType === 'columns' && column.default !== null) affected.defaults.add(place)
  }
  for (const thing of options.widened) queue.push({ thing, how: 'widened' })
  for (const object of options.removed) {
    for (const thing of createdBy(object.create)) queue.push({ thing, how: 'gone' })
  }

  for (let next = queue.shift(); next; next = queue.shift()) {
    for (const [place, entity] of state.entries()) {
      if (gone.has(place)) continue
      if (entity.entityType === 'columns' && !entity.generated) {
        if (entity.default && next.how === 'gone' && refers(entity.default, next)) {
          affected.defaults.add(place)
        }
      } else if (isInTheWay(entity, next)) {
        gone.add(place)
        disturb(place, 'gone')
      }
    }
    for (const object of objects) {
      if (affected.objects.has(object) || object.phase === 'within') continue
      if (!concerns(object, next)) continue
      affected.objects.add(object)
      for (const thing of createdBy(object.create)) queue.push({ thing, how: 'gone' })
    }
  }
  return affected
}

const keyColumns = (entity: Entity): readonly string[] | undefined =>
  entity.entityType === 'pks' || entity.entityType === 'uniques'
    ? entity.columns
    : entity.entityType === 'indexes' && entity.isUnique
      ? entity.columns.map(({ value }) => value)
      : undefined

/** Whether a text that Postgres keeps track of refers to what is disturbed. */
function refers(text: string, { thing, how }: Disturbance): boolean {
  const references = tracked(text)
  if (how === 'widened' && !references.isWide) return false
  return refersTo(references, thing) !== undefined
}

function isInTheWay(entity: Entity, disturbance: Disturbance): boolean {
  const { thing, how, columns } = disturbance
  switch (entity.entityType) {
    case 'fks':
      return isForeignKeyInTheWay(entity, disturbance)
    case 'views':
      return refers(entity.definition ?? '', disturbance)
    case 'columns':
    case 'checks':
    case 'policies':
    case 'indexes':
    case 'pks':
    case 'uniques': {
      if (how === 'widened') return false
      const isOwn = thing.schema === entity.schema && thing.name === entity.table
      const expressions = expressionsOf(entity)
      if (thing.kind === 'column' && isOwn) {
        const column = thing.column ?? ''
        if (tracked(expressions).outside.words.has(column)) return true
        return hasColumn(entity, column) && (how === 'gone' || isTypeBound(entity))
      }
      if (thing.kind === 'key' || (thing.kind === 'column' && columns)) return false
      return refers(expressions, disturbance)
    }
    default:
      return false
  }
}

const hasColumn = (entity: Entity, column: string) =>
  entity.entityType === 'indexes'
    ? entity.columns.some(({ value }) => value === column)
    : 'columns' in entity && entity.columns.includes(column)

/** Whether an index is of operators of one type, and cannot follow its column to another. */
const isTypeBound = (entity: Entity) =>
  entity.entityType === 'indexes' &&
  (entity.method !== 'btree' || entity.columns.some(({ opclass }) => opclass && !opclass.default))

function isForeignKeyInTheWay(fk: EntityOf<'fks'>, { thing, how, columns }: Disturbance): boolean {
  if (how === 'widened') return false
  const isOwn = thing.schema === fk.schema && thing.name === fk.table
  const isTarget = thing.schema === fk.schemaTo && thing.name === fk.tableTo
  if (thing.kind === 'relation') return isOwn || isTarget
  if (thing.kind === 'column') {
    const column = thing.column ?? ''
    return (isOwn && fk.columns.includes(column)) || (isTarget && fk.columnsTo.includes(column))
  }
  if (thing.kind !== 'key' || !isTarget) return false
  return !columns || isDeepStrictEqual([...columns].sort(), [...fk.columnsTo].sort())
}

function concerns(object: ManagedObject, disturbance: Disturbance): boolean {
  const { thing, how } = disturbance
  if (thing.kind === 'key') return false
  if (isCall(object)) {
    return thing.kind === 'relation' && referencesOf(object.create).inside.words.has(thing.name)
  }
  if (how === 'gone' && targetsOf(object).some((target) => isSame(target, thing))) return true
  return refers(object.create, disturbance)
}

export const isSame = (a: Thing, b: Thing) =>
  a.kind === b.kind && a.schema === b.schema && a.name === b.name

/** The entities of a state, by what tells them apart. */
export const indexOf = (state: readonly Entity[]): Map<string, Entity> =>
  new Map(state.map((entity) => [keyOf(entity), entity]))

/** The table that an entity is, or is part of. */
export const tableOf = (entity: Entity): string => {
  if (entity.entityType === 'tables') return `${entity.schema}\0${entity.name}`
  return 'table' in entity ? `${entity.schema}\0${entity.table}` : ''
}
