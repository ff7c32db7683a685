import { writeFile } from 'node:fs/promises'
import { sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../src/database.ts'
import { createTestDatabase } from '../src/testing/database.ts'

interface ColumnRow {
  schema: string
  table: string
  comment: string
  column: string
  type: string
  isRequired: boolean
  isKey: boolean
  default: string | null
  isGenerated: boolean
}

interface ReferenceRow {
  from: string
  to: string
}

/** The data dictionary, read from a migrated database, so that it says what is there. */
export async function dataDictionary(db: Database): Promise<string> {
  const columns = await rowsOf<ColumnRow>(
    db,
    sql`
      select n.nspname as schema, c.relname as "table", obj_description(c.oid) as comment,
        a.attname as "column", format_type(a.atttypid, a.atttypmod) as type,
        a.attnotnull as "isRequired", coalesce(a.attnum = any(i.indkey), false) as "isKey",
        pg_get_expr(d.adbin, d.adrelid) as "default", a.attgenerated <> '' as "isGenerated"
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
      left join pg_index i on i.indrelid = c.oid and i.indisprimary
      where c.relkind in ('r', 'p') and not c.relispartition
        and n.nspname not in ('pg_catalog', 'information_schema', 'drizzle', 'partitions')
      order by 1, 2, a.attnum`,
  )
  const references = await rowsOf<ReferenceRow>(
    db,
    sql`
      select distinct r.relname as "from", f.relname as "to"
      from pg_constraint k join pg_class r on r.oid = k.conrelid join pg_class f on f.oid = k.confrelid
      where k.contype = 'f' and not r.relispartition and not f.relispartition
        and k.connamespace::regnamespace::text not in ('pg_catalog', 'drizzle', 'partitions')
      order by 1, 2`,
  )
  const lines = [
    '# Data dictionary',
    '',
    'Made by `npm run docs:generate` from the migrated database. A key column is marked with ●.',
    '',
    '```mermaid',
    'erDiagram',
    ...references.map(({ from, to }) => `  ${to} ||--o{ ${from} : ""`),
    '```',
  ]
  for (const [name, table] of groupBy(columns, ({ schema, table }) => `${schema}.${table}`)) {
    lines.push('', `## ${name}`, '', table[0]?.comment ?? '', '')
    lines.push('| column | type | required | default |', '|---|---|---|---|')
    for (const { column, type, isRequired, isKey, isGenerated, ...rest } of table) {
      const value = rest.default === null ? '' : `\`${rest.default.replaceAll('|', '\\|')}\``
      lines.push(
        `| ${isKey ? '● ' : ''}${column} | ${type} | ${isRequired ? 'yes' : ''} | ${isGenerated ? 'generated: ' : ''}${value} |`,
      )
    }
  }
  return `${lines.join('\n')}\n`
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item])
  return groups
}

if (import.meta.filename === process.argv[1]) {
  const { db, close } = await createTestDatabase()
  await writeFile('docs/data-dictionary.md', await dataDictionary(db))
  await close()
  process.stdout.write('wrote docs/data-dictionary.md\n')
}
