import type { ManagedObject } from '../../schema/managed.ts'
import { literal } from '../advice/names.ts'
import { findAffected, indexOf, tableOf, thingsOf } from './affected.ts'
import { diff, type Entity, type EntityOf, type Rename } from './kit.ts'
import { render, type Step } from './order.ts'
import type { Thing } from './references.ts'
import { type Answers, invertRenames, keyOf, renamed, resolveRenames } from './renames.ts'
import { moveAside, type Rewrite, rewriteSteps } from './rewrite.ts'
import {
  type Fates,
  fatesOf,
  normalized,
  partitioningsOf,
  uncounted,
  withFollowedNames,
  withKeptNames,
} from './states.ts'
import { dropSteps, makeSteps, objectChanges, renameSequences } from './steps.ts'

/** All that is declared at one time: drizzle's tables and the rest, and plinth's managed objects. */
export interface SchemaState {
  readonly ddl: readonly Entity[]
  readonly objects: readonly ManagedObject[]
}

export const EMPTY: SchemaState = { ddl: [], objects: [] }

/** Statements, with the comments above them, in the order in which they are run. */
export interface MigrationPlan {
  readonly up: readonly string[]
  readonly down: readonly string[]
  /** What was renamed. */
  readonly renames: readonly Rename[]
  /** What is there afterwards: `next`, with the names of indexes and keys that drizzle-kit leaves alone. */
  readonly next: SchemaState
}

/**
 * Plans the statements that lead from one state to another, and back.
 *
 * What is in the way of a change is dropped and made again: a view over a column that gets another type,
 * the policies and grants of a function whose signature changes.
 *
 * @throws {OpenQuestionsError} where it is open whether something was renamed or dropped;
 * {MigrationError} for an answer that fits nothing.
 */
export async function planMigration(
  prev: SchemaState,
  next: SchemaState,
  answers: Answers = {},
): Promise<MigrationPlan> {
  const renames = resolveRenames(prev.ddl, next.ddl, answers)
  const moved = renames.reduce(
    (state, rename) => state.map((it) => renamed(it, rename)),
    [...prev.ddl],
  )
  const target = { ...next, ddl: withKeptNames(moved, next.ddl) }
  return {
    up: render(await planSteps(prev, target, renames)),
    down: render(await planSteps(target, prev, invertRenames(renames))),
    renames,
    next: target,
  }
}

const move = (state: readonly Entity[], renames: readonly Rename[]): Entity[] =>
  renames.reduce((now, rename) => now.map((it) => renamed(it, rename)), [...state])

/** As if somebody had written every name: drizzle-kit does not rename what it has named itself. */
const named = (state: readonly Entity[]): Entity[] =>
  state.map((entity) => ('nameExplicit' in entity ? { ...entity, nameExplicit: true } : entity))

/** The steps of one direction: what takes labels in, takes away, renames, and makes. */
async function planSteps(
  prev: SchemaState,
  next: SchemaState,
  renames: readonly Rename[],
): Promise<Step[]> {
  const from = normalized(prev.ddl)
  const to = normalized(next.ddl)
  const moved = withFollowedNames(move(from, renames), to, renames)
  const rewritten = findRewritten(prev, next, moved, renames)
  const fates = fatesOf(moved, to, (entity) => rewritten.has(tableOf(entity)))
  const grown = growEnums(from, moved, to, fates)

  const objects = await objectChanges(prev.objects, next.objects)
  const affected = findAffected({
    state: from,
    objects: prev.objects,
    gone: fates.gone,
    retyped: [...fates.retyped, ...fates.loosened],
    widened: widenedRelations(from, moved, to, renames),
    removed: objects.removed,
  })
  const isLoosened = new Set(fates.loosened)
  const isUncounted = new Set(fates.uncounted)
  const keep = (state: readonly Entity[]) =>
    state.flatMap((entity, place): Entity[] => {
      if (affected.gone.has(place)) return []
      if (entity.entityType !== 'columns') return [entity]
      const plain = isUncounted.has(place) ? uncounted(entity) : entity
      const column = affected.defaults.has(place) ? { ...plain, default: null } : plain
      return isLoosened.has(place) ? [{ ...column, type: 'text', typeSchema: null }] : [column]
    })

  const enlarged = grown.state(from)
  const middle = keep(enlarged)
  const dropped = await dropSteps(enlarged, middle, affected, objects, rewritten)
  const away = rewritten.size > 0 ? moveAside([...rewritten.values()]) : { before: [], after: [] }
  const renaming = await diff(named(middle), named(move(middle, renames)), renames)
  const made = await makeSteps(keep(grown.state(moved)), to, next.objects, affected, objects, {
    partitionings: partitioningsOf(next.objects),
    copies: rewriteSteps([...rewritten.values()], from, moved, to),
  })
  return withSteps(grown.steps, [
    ...dropped,
    ...away.before,
    ...renaming.map((sql): Step => ({ sql, things: [], definition: sql })),
    ...renameSequences(from, moved, to, affected.gone),
    ...made,
    ...away.after,
  ])
}

function findRewritten(
  prev: SchemaState,
  next: SchemaState,
  moved: readonly Entity[],
  renames: readonly Rename[],
): Map<string, Rewrite> {
  const before = partitioningsOf(prev.objects)
  const after = partitioningsOf(next.objects)
  const known = indexOf(next.ddl)
  const columnNames = renames.filter(({ kind }) => kind === 'column')
  const rewritten = new Map<string, Rewrite>()
  for (const [place, entity] of moved.entries()) {
    if (entity.entityType !== 'tables' || !known.has(keyOf(entity))) continue
    const old = prev.ddl[place] as EntityOf<'tables'>
    const clause = before.get(tableOf(old))
    const followed = columnNames
      .filter(({ to }) => to[0] === entity.schema && to[1] === entity.name)
      .reduce((text, { from, to }) => text?.replaceAll(`"${from[2]}"`, `"${to[2]}"`), clause)
    if (followed !== after.get(tableOf(entity))) {
      rewritten.set(tableOf(entity), { from: old, to: entity })
    }
  }
  return rewritten
}

/** New labels of enums come first: none can be used in the transaction that makes it. */
function growEnums(
  from: readonly Entity[],
  moved: readonly Entity[],
  to: readonly Entity[],
  { grown }: Fates,
) {
  const known = indexOf(to)
  const values = new Map<number, string[]>()
  const steps: Step[] = []
  for (const place of grown) {
    const old = from[place]
    const other = known.get(moved[place] ? keyOf(moved[place]) : '')
    if (old?.entityType !== 'enums' || other?.entityType !== 'enums') continue
    values.set(place, other.values)
    for (const [at, label] of other.values.entries()) {
      if (old.values.includes(label)) continue
      const next = other.values.slice(at + 1).find((after) => old.values.includes(after))
      const before = next === undefined ? '' : ` BEFORE ${literal(next)}`
      const name = old.schema === 'public' ? `"${old.name}"` : `"${old.schema}"."${old.name}"`
      const sql = `ALTER TYPE ${name} ADD VALUE ${literal(label)}${before}`
      steps.push({ sql, things: [], definition: literal(label) })
    }
  }
  const state = (entities: readonly Entity[]) =>
    entities.map((entity, place) => {
      const labels = values.get(place)
      return labels && entity.entityType === 'enums' ? { ...entity, values: labels } : entity
    })
  return { steps, state }
}

/** Puts the new labels first, and commits them where a later statement uses one. */
function withSteps(labels: readonly Step[], steps: readonly Step[]): Step[] {
  const isUsed = labels.some(({ definition }) => steps.some(({ sql }) => sql.includes(definition)))
  return [
    ...labels,
    ...steps.map((step, at) => (at === 0 && isUsed ? { ...step, isNewStep: true } : step)),
  ]
}

/** Relations that get columns, or other names for them: what takes all columns of one is another thing then. */
function widenedRelations(
  from: readonly Entity[],
  moved: readonly Entity[],
  to: readonly Entity[],
  renames: readonly Rename[],
): Thing[] {
  const tables = new Map(
    moved.flatMap((entity, place) =>
      entity.entityType === 'tables' ? [[tableOf(entity), from[place]] as const] : [],
    ),
  )
  const known = indexOf(moved)
  const changed = new Set([
    ...to.filter((it) => it.entityType === 'columns' && !known.has(keyOf(it))).map(tableOf),
    ...renames.filter(({ kind }) => kind === 'column').map(({ to }) => to.slice(0, 2).join('\0')),
  ])
  return [...changed].flatMap((table) => {
    const old = tables.get(table)
    return old ? thingsOf(old) : []
  })
}
