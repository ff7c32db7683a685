import type { ManagedObject } from '../../schema/managed.ts'
import { type Affected, definitionOf, indexOf, isSame, tableOf, thingsOf } from './affected.ts'
import { isCastable } from './casts.ts'
import { diff, type Entity, type EntityOf } from './kit.ts'
import { createdBy, isCall, isReplaceable, splitName, targetsOf } from './objects.ts'
import { madeBy, orderDrops, orderSteps, type Step } from './order.ts'
import { referencesOf, type Thing } from './references.ts'
import { keyOf, pathOf } from './renames.ts'
import { continueSequence, partitionsOf, type Rewrite } from './rewrite.ts'
import { counterOf, uncounted } from './states.ts'

export interface ObjectChanges {
  /** Objects of `prev` that are not in `next`, or differ so that a drop is needed. */
  readonly removed: ManagedObject[]
  /** Objects of `next` that are new, or differ. */
  readonly made: ManagedObject[]
}

/** Compares the managed objects of two states. */
export async function objectChanges(
  prev: readonly ManagedObject[],
  next: readonly ManagedObject[],
): Promise<ObjectChanges> {
  const before = new Map(prev.map((object) => [object.name, object]))
  const after = new Map(next.map((object) => [object.name, object]))
  const removed: ManagedObject[] = []
  for (const object of prev) {
    if (object.phase === 'within') continue
    const now = after.get(object.name)
    if (now?.create === object.create) continue
    if (!now || !(await isReplaceable(object, now))) removed.push(object)
  }
  const made = next.filter(
    (object) => object.phase !== 'within' && before.get(object.name)?.create !== object.create,
  )
  return { removed, made }
}

/** Objects that say something of another thing, and end with it. */
const isAttribute = ({ create }: ManagedObject) =>
  /^(comment\s+on|grant|revoke|do\b|select|call\b|create\s+(extension|schema))|\sset\s+storage\s/i.test(
    create,
  )

/** What takes away all that is not in the middle of the two states. */
export async function dropSteps(
  from: readonly Entity[],
  middle: readonly Entity[],
  { gone, objects }: Affected,
  { removed }: ObjectChanges,
  rewritten: ReadonlyMap<string, Rewrite>,
): Promise<Step[]> {
  const lost = [
    ...[...gone].flatMap((place) => (from[place] ? thingsOf(from[place]) : [])),
    ...[...objects].flatMap(({ create }) => createdBy(create)),
  ]
  const isLost = (object: ManagedObject) => {
    const targets = targetsOf(object)
    return (
      targets.length > 0 && targets.every((target) => lost.some((thing) => isSame(thing, target)))
    )
  }
  const unmade = [...objects].filter(
    (object) =>
      object.drop !== undefined &&
      !isLost(object) &&
      (removed.includes(object) || !isAttribute(object)),
  )
  const steps = (phase: ManagedObject['phase']) =>
    unmade
      .filter((object) => object.phase === phase)
      .toReversed()
      .map(
        ({ name, create, drop = '' }): Step => ({
          sql: drop,
          title: name,
          things: createdBy(create),
          definition: create,
        }),
      )
  const kit = (await diff(from, middle)).map((sql) => dropStep(sql, from))
  const isMoved = (step: Step) =>
    [...rewritten.values()].some(
      ({ from: { schema, name } }) =>
        step.sql === `DROP TABLE "${schema}"."${name}"` ||
        (schema === 'public' && step.sql === `DROP TABLE "${name}"`),
    )
  return orderDrops([
    ...steps('after'),
    ...kit.filter((step) => !isMoved(step)),
    ...steps('before'),
  ])
}

const DROPS = [
  /^DROP (?:TABLE|TYPE|SEQUENCE|SCHEMA|INDEX|VIEW|MATERIALIZED VIEW) (\S+)$/,
  /^DROP POLICY ("[^"]+") ON (\S+)$/,
  /^ALTER TABLE (\S+) (?:DROP CONSTRAINT|DROP COLUMN|ALTER COLUMN) "([^"]+)"/,
]

/** What a statement of drizzle-kit takes away, with the definition that it had. */
function dropStep(sql: string, state: readonly Entity[]): Step {
  const [relation, policy, part] = DROPS.map((pattern) => pattern.exec(sql))
  const isColumn = /(DROP|ALTER) COLUMN/.test(sql)
  const found = state.find((entity) => {
    const path = pathOf(entity)
    if (relation) {
      const { schema, name } = splitName(relation[1] ?? '')
      const [first] = path
      return entity.entityType === 'schemas'
        ? sql.startsWith('DROP SCHEMA') && entity.name === name
        : first === schema &&
            path.at(-1) === name &&
            (path.length === 2 ||
              (sql.startsWith('DROP INDEX') === (entity.entityType === 'indexes') &&
                entity.entityType === 'indexes'))
    }
    const table = splitName(policy?.[2] ?? part?.[1] ?? '')
    const name = policy?.[1]?.slice(1, -1) ?? part?.[2]
    if (path.length !== 3 || path[0] !== table.schema || path[1] !== table.name) return false
    if (path[2] !== name) return false
    if (policy) return entity.entityType === 'policies'
    return (
      isColumn === (entity.entityType === 'columns') &&
      entity.entityType !== 'policies' &&
      entity.entityType !== 'indexes'
    )
  })
  if (!found) return { sql, things: [], definition: '' }
  return { sql, things: thingsOf(found), definition: definitionOf(found, state) }
}

interface Splices {
  partitionings: ReadonlyMap<string, string>
  /** What moves the rows of a table that was made anew. */
  copies: readonly Step[]
}

/** What makes all that is not in the middle of the two states. */
export async function makeSteps(
  from: readonly Entity[],
  to: readonly Entity[],
  declared: readonly ManagedObject[],
  { objects }: Affected,
  { made, removed }: ObjectChanges,
  { partitionings, copies }: Splices,
): Promise<Step[]> {
  const again = new Set([...objects].filter((it) => !removed.includes(it)).map(({ name }) => name))
  const steps = (phase: ManagedObject['phase']) =>
    declared
      .filter(
        (object) => object.phase === phase && (made.includes(object) || again.has(object.name)),
      )
      .map(
        (object): Step => ({
          sql: object.create,
          title: object.name,
          things: [...createdBy(object.create), ...(isCall(object) ? filledBy(object, to) : [])],
          definition: object.create,
        }),
      )
  const [known, target] = [indexOf(from), indexOf(to)]
  const kit = (await diff(from, to)).map((sql) => kitStep(sql, known, target, partitionings))
  const counted = countedColumns(known, to)
  const ordered = orderSteps([
    ...steps('before'),
    ...counted.before,
    ...kit,
    ...counted.after,
    ...requiredColumns(known, to),
    ...copies,
    ...steps('after'),
  ])
  // Each ends a transaction: none in the midst of the others.
  const isLast = (step: Step) => step.isConcurrent === true && step.things.length === 0
  return [...ordered.filter((step) => !isLast(step)), ...ordered.filter(isLast)]
}

/** The tables that a call may make partitions for. */
const filledBy = (call: ManagedObject, state: readonly Entity[]): Thing[] => {
  const { words } = referencesOf(call.create).inside
  return state.flatMap((entity) =>
    entity.entityType === 'tables' && words.has(entity.name) ? [partitionsOf(entity)] : [],
  )
}

const CONCURRENT = /^CREATE (UNIQUE )?INDEX CONCURRENTLY ("[^"]+") ON ((?:"[^"]+"\.)?"[^"]+")/

function kitStep(
  sql: string,
  from: ReadonlyMap<string, Entity>,
  to: ReadonlyMap<string, Entity>,
  partitionings: ReadonlyMap<string, string>,
): Step {
  const [, created] = /^CREATE TABLE ((?:"[^"]+"\.)?"[^"]+") \(/.exec(sql) ?? []
  if (created) {
    const { schema, name } = splitName(created)
    const clause = partitionings.get(`${schema}\0${name}`)
    const title = clause && `partitioning ${created}`
    const text = clause ? `${sql} ${clause}` : sql
    return { sql: text, ...(title && { title }), things: madeBy(sql), definition: text }
  }
  const [, , , table] = CONCURRENT.exec(sql) ?? []
  if (table) {
    const { schema, name } = splitName(table)
    const exists = [...from.values()].some(
      (it) => it.entityType === 'tables' && it.schema === schema && it.name === name,
    )
    const text = sql.replace('INDEX CONCURRENTLY', 'INDEX')
    // Postgres builds no index of a partitioned table so.
    const isConcurrent = exists && !partitionings.has(`${schema}\0${name}`)
    return { sql: text, things: madeBy(text), definition: text, isConcurrent }
  }
  const text = sizedSequence(sql, from, to)
  return castStep({ sql: text, things: madeBy(text), definition: text }, from, to)
}

/** drizzle-kit makes every sequence one of bigint, also where the column is smaller. */
function sizedSequence(
  sql: string,
  from: ReadonlyMap<string, Entity>,
  to: ReadonlyMap<string, Entity>,
): string {
  const [, created] = /^CREATE SEQUENCE ((?:"[^"]+"\.)?"[^"]+")$/.exec(sql) ?? []
  if (!created) return sql
  const { schema, name } = splitName(created)
  const column = [...to.values()].find(
    (it): it is EntityOf<'columns'> =>
      it.entityType === 'columns' &&
      it.schema === schema &&
      sequenceOf(it) === name &&
      from.has(keyOf(it)),
  )
  return column?.type.endsWith('serial') ? `${sql} AS ${uncounted(column).type}` : sql
}

const RETYPES = /^ALTER TABLE (\S+) ALTER COLUMN "([^"]+)" SET DATA TYPE ([\s\S]+) USING "[^"]+"::/

/** Where no cast leads from one type to the other, drizzle-kit writes one nevertheless. */
function castStep(
  step: Step,
  from: ReadonlyMap<string, Entity>,
  to: ReadonlyMap<string, Entity>,
): Step {
  const [, table = '', name = '', type = ''] = RETYPES.exec(step.sql) ?? []
  if (!type) return step
  const { schema, name: relation } = splitName(table)
  const key = ['columns', schema, relation, name].join('\0')
  const [old, column] = [from.get(key), to.get(key)]
  if (old?.entityType !== 'columns' || column?.entityType !== 'columns') return step
  if (isCastable(old, column)) return step
  return {
    ...step,
    sql: `ALTER TABLE ${table} ALTER COLUMN "${name}" SET DATA TYPE ${type} USING "${name}"::text::${type}`,
    note: `no cast leads from ${old.type} to ${column.type}: each value has to be readable as the new type`,
  }
}

/** drizzle-kit leaves NOT NULL out where it adds a generated column to a table. */
function requiredColumns(from: ReadonlyMap<string, Entity>, to: readonly Entity[]): Step[] {
  const tables = new Set([...from.values()].filter((it) => it.entityType === 'tables').map(tableOf))
  return to.flatMap((entity) => {
    if (entity.entityType !== 'columns' || !entity.generated || !entity.notNull) return []
    if (from.has(keyOf(entity)) || !tables.has(tableOf(entity))) return []
    const column = `ALTER TABLE ${tableName(entity)} ALTER COLUMN "${entity.name}"`
    return [plainStep(`${column} SET NOT NULL`)]
  })
}

/** drizzle-kit has a new sequence begin at 1, whatever numbers there are, and leaves out NOT NULL before it. */
function countedColumns(from: ReadonlyMap<string, Entity>, to: readonly Entity[]) {
  const before: Step[] = []
  const after: Step[] = []
  for (const column of to) {
    if (column.entityType !== 'columns' || !counterOf(column)) continue
    const old = from.get(keyOf(column))
    if (old?.entityType !== 'columns' || counterOf(old)) continue
    const table = tableName(column)
    // Without a definition it stays before all that is done to the column.
    const sql = `ALTER TABLE ${table} ALTER COLUMN "${column.name}" SET NOT NULL`
    if (!old.notNull) before.push({ sql, things: [], definition: '' })
    after.push(plainStep(continueSequence(table, column.name)))
  }
  return { before, after }
}

const tableName = ({ schema, table }: { schema: string; table: string }) =>
  schema === 'public' ? `"${table}"` : `"${schema}"."${table}"`

const plainStep = (sql: string): Step => ({ sql, things: [], definition: sql })

/** The sequence that Postgres counts a column's rows by. */
const sequenceOf = ({ identity, type, table, name }: EntityOf<'columns'>) =>
  identity?.name ?? (/serial$/.test(type) ? `${table}_${name}_seq` : undefined)

/** The sequences of columns follow them: drizzle-kit leaves them the name that they were made with. */
export function renameSequences(
  from: readonly Entity[],
  moved: readonly Entity[],
  to: readonly Entity[],
  gone: ReadonlySet<number>,
): Step[] {
  const known = indexOf(to)
  return from.flatMap((old, place) => {
    const now = moved[place]
    const next = now && known.get(keyOf(now))
    if (gone.has(place) || old.entityType !== 'columns' || next?.entityType !== 'columns') return []
    const [before, after] = [sequenceOf(old), sequenceOf(next)]
    if (!before || !after || before === after) return []
    const schema = next.schema === 'public' ? '' : `"${next.schema}".`
    const sql = `ALTER SEQUENCE ${schema}"${before}" RENAME TO "${after}"`
    return [{ sql, things: [], definition: '' }]
  })
}
