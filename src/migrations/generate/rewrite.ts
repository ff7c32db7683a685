import type { Entity, EntityOf } from './kit.ts'
import type { Step } from './order.ts'
import type { Thing } from './references.ts'
import { keyOf } from './renames.ts'

/** A table that has to be made anew, because its partitioning is another one: its two names. */
export interface Rewrite {
  readonly from: { readonly schema: string; readonly name: string }
  readonly to: { readonly schema: string; readonly name: string }
}

type TableName = Rewrite['from']

/** Where a table waits while the one that takes its place is made. Indexes keep their names in there. */
const ASIDE = 'plinth_aside'

const named = ({ schema, name }: TableName) => `"${schema}"."${name}"`

/** Stands for the partitions of a table, which a call makes. */
export const partitionsOf = ({ schema, name }: TableName): Thing => ({
  kind: 'rows',
  schema,
  name: `partitions of ${name}`,
})

const rowsOf = ({ schema, name }: TableName): Thing => ({ kind: 'rows', schema, name })

/** Moves tables, with their partitions, out of the way; and ends the place where they were. */
export function moveAside(rewrites: readonly Rewrite[]): { before: Step[]; after: Step[] } {
  const step = (sql: string, note?: string): Step => ({
    sql,
    things: [],
    definition: '',
    ...(note && { note }),
  })
  return {
    before: [
      step(`CREATE SCHEMA "${ASIDE}"`),
      ...rewrites.map(({ from }) =>
        step(
          `do $$ declare part record; begin
  for part in select relid::regclass as name from pg_partition_tree('${named(from)}') where parentrelid is not null loop
    execute format('alter table %s set schema "${ASIDE}"', part.name);
  end loop;
  alter table ${named(from)} set schema "${ASIDE}";
end $$`,
          `rewrites ${from.schema}.${from.name}: every row is copied into a table that is partitioned as is declared now.\nNobody reads or writes it meanwhile, and each row needs a partition that takes it.`,
        ),
      ),
    ],
    after: [step(`DROP SCHEMA "${ASIDE}"`)],
  }
}

/** Copies the rows of tables that were moved aside, sets their sequences, and drops the old tables. */
export function rewriteSteps(
  rewrites: readonly Rewrite[],
  from: readonly Entity[],
  moved: readonly Entity[],
  to: readonly Entity[],
): Step[] {
  const places = new Map(moved.map((entity, place) => [keyOf(entity), place]))
  return rewrites.flatMap((rewrite) => {
    const target = named(rewrite.to)
    const columns = to.filter(
      (it): it is EntityOf<'columns'> =>
        it.entityType === 'columns' &&
        it.schema === rewrite.to.schema &&
        it.table === rewrite.to.name,
    )
    const copied = columns.flatMap((column) => {
      const old = from[places.get(keyOf(column)) ?? -1]
      return column.generated || old?.entityType !== 'columns' ? [] : [{ column, old }]
    })
    const names = copied.map(({ column }) => `"${column.name}"`).join(', ')
    const values = copied.map(({ column, old }) => {
      const type = typeOf(column)
      if (type === typeOf(old)) return `"${old.name}"`
      // From one enum to another there is no way but through text.
      return `"${old.name}"::${old.typeSchema && column.typeSchema ? 'text::' : ''}${type}`
    })
    const isFixed = copied.some(({ column }) => column.identity?.type === 'always')
    const overriding = isFixed ? ' OVERRIDING SYSTEM VALUE' : ''
    const copy: Step = {
      sql: `INSERT INTO ${target} (${names})${overriding} SELECT ${values.join(', ')} FROM "${ASIDE}"."${rewrite.from.name}"`,
      things: [rowsOf(rewrite.to)],
      definition: target,
      needs: [partitionsOf(rewrite.to)],
    }
    const counted = columns.filter(
      ({ identity, type }) => identity !== null || /serial$/.test(type),
    )
    const after = (sql: string): Step => ({
      sql,
      things: [],
      definition: target,
      needs: [rowsOf(rewrite.to)],
    })
    return [
      ...(copied.length > 0 ? [copy] : []),
      ...counted.map(({ name }) => after(continueSequence(target, name))),
      after(`DROP TABLE "${ASIDE}"."${rewrite.from.name}"`),
    ]
  })
}

/** Has the sequence of a column go on after the highest number that is there. */
export const continueSequence = (table: string, column: string): string =>
  `SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence('${table}', '${column}'), coalesce(max("${column}"), 0) + 1, false) FROM ${table}`

const typeOf = ({ type, typeSchema, dimensions }: EntityOf<'columns'>) => {
  const name = typeSchema ? `"${typeSchema}"."${type}"` : type
  return `${name}${'[]'.repeat(dimensions)}`
}
