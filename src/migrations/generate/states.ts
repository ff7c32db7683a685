import { isDeepStrictEqual } from 'node:util'
import type { ManagedObject } from '../../schema/managed.ts'
import { indexOf } from './affected.ts'
import type { Entity, EntityOf, Rename } from './kit.ts'
import { splitName } from './objects.ts'
import { keyOf, pathOf } from './renames.ts'

/**
 * A state in which is said what Postgres does by itself: a key's columns are NOT NULL, and stay so when
 * the key is gone.
 */
export function normalized(state: readonly Entity[]): Entity[] {
  const keyed = new Set(
    state.flatMap((entity) =>
      entity.entityType === 'pks'
        ? entity.columns.map((column) => [entity.schema, entity.table, column].join('\0'))
        : [],
    ),
  )
  return state.map((entity) => {
    if (entity.entityType !== 'columns') return entity
    const isKey = keyed.has(pathOf(entity).join('\0'))
    const isFilled = entity.identity !== null || /^(small|big)?serial$/.test(entity.type)
    return isKey || isFilled ? { ...entity, notNull: true } : entity
  })
}

const NAMED = ['uniques', 'fks', 'pks', 'indexes'] as const

/**
 * `next` with the names that drizzle-kit leaves as they are: those that nobody wrote, of indexes and keys
 * that are otherwise the same. `prev` has its renames behind it.
 */
export function withKeptNames(prev: readonly Entity[], next: readonly Entity[]): Entity[] {
  const kept = [...next]
  for (const entityType of NAMED) {
    for (const left of prev) {
      if (left.entityType !== entityType || left.nameExplicit) continue
      const { name, ...definition } = left
      const places = kept.flatMap((right, place) => {
        if (right.entityType !== entityType) return []
        const { name: _, ...other } = right
        return isDeepStrictEqual(other, definition) ? [place] : []
      })
      const [place] = places
      const match = place === undefined ? undefined : kept[place]
      if (!match || place === undefined || places.length > 1) continue
      kept[place] = { ...match, name } as Entity
    }
  }
  return kept
}

const replaceNames = (text: string, renames: readonly Rename[]) =>
  renames.reduce(
    (result, { from, to }) =>
      from.reduce((now, name, at) => {
        const other = to[at]
        if (other === undefined || other === name) return now
        const bare = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
        return now.replace(new RegExp(`(?<![\\w$'])${bare}(?![\\w$'])`, 'g'), other)
      }, result),
    text,
  )

/**
 * `prev`, renamed, with the expressions of `next` where they differ by the renames alone: Postgres has
 * followed those already. A view keeps the names of its own columns, and is not followed.
 */
export function withFollowedNames(
  prev: readonly Entity[],
  next: readonly Entity[],
  renames: readonly Rename[],
): Entity[] {
  if (renames.length === 0) return [...prev]
  const known = indexOf(next)
  return prev.map((entity) => {
    const other = known.get(keyOf(entity))
    if (!other || entity.entityType === 'views' || isDeepStrictEqual(entity, other)) return entity
    const followed = JSON.parse(replaceNames(JSON.stringify(entity), renames))
    return isDeepStrictEqual(followed, JSON.parse(JSON.stringify(other))) ? other : entity
  })
}

export interface Fates {
  /** Places in `prev` of what is not in `next`, or in a form that takes a drop to reach. */
  readonly gone: number[]
  /** Places of columns that get another type where they are. */
  readonly retyped: number[]
  /** Places of enums that get more labels and lose none. */
  readonly grown: number[]
  /** Places of columns whose enum is made again, so that they are text meanwhile. */
  readonly loosened: number[]
  /** Places of columns that are no longer counted by the sequence that they have. */
  readonly uncounted: number[]
}

/** What has to become of each entity of `prev`, whose renames are behind it, to reach `next`. */
export function fatesOf(
  prev: readonly Entity[],
  next: readonly Entity[],
  rewritten: (entity: Entity) => boolean,
): Fates {
  const known = indexOf(next)
  const fates: Fates = { gone: [], retyped: [], grown: [], loosened: [], uncounted: [] }
  for (const [place, entity] of prev.entries()) {
    const other = known.get(keyOf(entity))
    if (!other || rewritten(entity)) fates.gone.push(place)
    else if (entity.entityType === 'enums' && other.entityType === 'enums') {
      if (isDeepStrictEqual(entity.values, other.values)) continue
      if (isWithin(entity.values, other.values)) fates.grown.push(place)
      else fates.gone.push(place)
    } else if (entity.entityType === 'columns' && other.entityType === 'columns') {
      if (isRemade(entity, other)) fates.gone.push(place)
      else {
        if (isRetyped(entity, other)) fates.retyped.push(place)
        const counter = counterOf(entity)
        if (counter && counter !== counterOf(other)) fates.uncounted.push(place)
      }
    } else if (!isAltered(entity, other)) fates.gone.push(place)
  }
  const remade = fates.gone.flatMap((place) => {
    const entity = prev[place]
    return entity?.entityType === 'enums' ? [entity] : []
  })
  const gone = new Set(fates.gone)
  for (const [place, entity] of prev.entries()) {
    if (entity.entityType !== 'columns' || gone.has(place)) continue
    if (remade.some(({ schema, name }) => entity.typeSchema === schema && entity.type === name)) {
      fates.loosened.push(place)
    }
  }
  return fates
}

/**
 * How a column is numbered: as `serial`, the same of another size, as an identity, or not at all. An
 * identity's sequence follows the type of its column, and a serial's does not.
 */
export const counterOf = ({ identity, type }: EntityOf<'columns'>) =>
  identity ? 'identity' : /serial$/.test(type) ? type : undefined

/** The type of a column that is numbered, without the numbering. */
export const uncounted = (column: EntityOf<'columns'>): EntityOf<'columns'> => ({
  ...column,
  identity: null,
  type: column.type
    .replace(/^bigserial$/, 'bigint')
    .replace(/^smallserial$/, 'smallint')
    .replace(/^serial$/, 'integer'),
})

/** Whether the first labels are among the second, in the same order. */
function isWithin(labels: readonly string[], others: readonly string[]): boolean {
  const found = others.filter((label) => labels.includes(label))
  return isDeepStrictEqual(found, [...labels])
}

const isRetyped = (a: EntityOf<'columns'>, b: EntityOf<'columns'>) =>
  a.type !== b.type || a.typeSchema !== b.typeSchema || a.dimensions !== b.dimensions

/** A generated column cannot be altered; its values are computed again anyway. */
const isRemade = (a: EntityOf<'columns'>, b: EntityOf<'columns'>) =>
  b.generated !== null && (!isDeepStrictEqual(a.generated, b.generated) || isRetyped(a, b))

/** Whether the one can become the other where it is: by nothing at all, or by an ALTER that is right. */
function isAltered(a: Entity, b: Entity): boolean {
  if (a.entityType === 'policies' && b.entityType === 'policies') {
    const isEmptied =
      (a.using !== null && b.using === null) || (a.withCheck !== null && b.withCheck === null)
    return a.as === b.as && a.for === b.for && !isEmptied
  }
  if (a.entityType === 'views' && b.entityType === 'views') {
    return (
      a.definition === b.definition &&
      a.materialized === b.materialized &&
      a.withNoData === b.withNoData
    )
  }
  const isInPlace = ['schemas', 'tables', 'sequences', 'roles', 'privileges'].includes(a.entityType)
  return isInPlace || isDeepStrictEqual(essence(a), essence(b))
}

const essence = (entity: Entity) => {
  const { nameExplicit: _, concurrently: __, ...rest } = entity as Entity & Record<string, unknown>
  return rest
}

/** How a table is partitioned, by the quoted name of the table. */
export const partitioningsOf = (objects: readonly ManagedObject[]) =>
  new Map<string, string>(
    objects.flatMap(({ phase, table, create }) => {
      if (phase !== 'within' || !table) return []
      const { schema, name } = splitName(table)
      return [[`${schema}\0${name}`, create] as const]
    }),
  )
