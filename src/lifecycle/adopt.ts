import { type SQL, sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { ValidationError } from '../errors.ts'
import { getSpace } from '../queries/spaces.ts'
import { organizations, users } from '../schema/identity.ts'
import {
  chunks,
  embeddings,
  type Space,
  type Visibility,
  visibility as visibilities,
} from '../schema/search.ts'
import { checkInteger, checkList, checkOneOf, checkText, checkUuid } from '../validation.ts'

/** Of a content, in bytes: what is surely not too much for a tsvector. */
const MAX_CONTENT = 500_000

/** The largest number that halfvec holds, and half of the smallest, which it rounds to 0. */
const HALF_MAX = 65_504
const HALF_TINY = 2 ** -25

/** The names of columns of the table. */
export interface AdoptedColumns {
  /** Of plinth's organizations, as uuid. */
  organizationId: string
  /** What the source is called: unique, in the table or in the organization. */
  id: string
  content: string
  /** A vector, halfvec or real[]. */
  embedding: string
  /** Of plinth's users, as uuid. */
  ownerId?: string
  /** A json or jsonb, of objects. */
  metadata?: string
  occurredAt?: string
}

export interface AdoptVectorsOptions {
  space: Pick<Space, 'id'>
  /** As `schema.table`. */
  table: string
  columns: AdoptedColumns
  /** As what the rows are found, in up to 40 characters. */
  sourceType: string
  /** `shared` unless said; `private` needs an owner of every row. */
  visibility?: Visibility
  /** Rows of a transaction, up to 10,000; 500 unless said. */
  batchSize?: number
  /** Where to go on: `last` of what an earlier call has said. From the first row unless said. */
  after?: readonly string[]
  onProgress?: (progress: AdoptedVectors) => void
  /** Ends it between two batches. */
  signal?: AbortSignal
}

export interface AdoptedVectors {
  /** Rows that were read. */
  rows: number
  /** Chunks and vectors that were added. */
  chunks: number
  vectors: number
  /** Rows that were passed over, and why. */
  skipped: {
    /** Without an organization, owner, id, content or embedding that plinth knows or can take. */
    incomplete: number
    /** Of more than 500,000 bytes: to be split, by `indexSource`. */
    tooLong: number
    /** Whose vector has another dimension than the space; NaN, null or too large a number in it; or is zero. */
    dimensions: number
    notFinite: number
    zero: number
    /** That are indexed with another content. */
    changed: number
  }
  /** The key of the last row, as texts; undefined before the first one. */
  last: string[] | undefined
}

const PROBLEMS = [
  'incomplete',
  'tooLong',
  'dimensions',
  'notFinite',
  'zero',
  'changed',
] as const satisfies (keyof AdoptedVectors['skipped'])[]

/**
 * Adopts the vectors of a table of your own as those of a space, without embedding anything again: each row
 * becomes a source of one chunk, and its vector. The table itself is only read.
 *
 * Batches in the order of the key, a transaction each. Called again, it adds what is missing and nothing
 * twice; with `after`, it does not even read what was done.
 *
 * @throws {ForbiddenError} for who does not own plinth's tables. @throws {NotFoundError} for an unknown space.
 * @throws {ValidationError} also for a table or columns that are not what they have to be. @throws the
 * signal's reason.
 */
export async function adoptVectors(
  db: Database,
  options: AdoptVectorsOptions,
): Promise<AdoptedVectors> {
  const { batchSize = 500, visibility = 'shared', onProgress, signal } = options
  checkUuid('space.id', options.space?.id)
  checkText('table', options.table, { max: 200 })
  checkText('sourceType', options.sourceType, { max: 40 })
  checkInteger('batchSize', batchSize, { min: 1, max: 10_000 })
  checkOneOf('visibility', visibility, visibilities.enumValues)
  const columns = checkColumns(options.columns)
  if (visibility === 'private' && columns.ownerId === undefined) {
    throw new ValidationError('columns.ownerId', 'must be given for private rows')
  }
  const table = await describe(db, options.table, columns)
  if (options.after !== undefined) {
    checkList('after', options.after, { min: table.key.length, max: table.key.length })
    for (const [at, part] of options.after.entries()) checkText(`after[${at}]`, part)
  }
  const space = await getSpace(db, options.space.id)
  const report: AdoptedVectors = {
    ...{ rows: 0, chunks: 0, vectors: 0, last: options.after && [...options.after] },
    skipped: { incomplete: 0, tooLong: 0, dimensions: 0, notFinite: 0, zero: 0, changed: 0 },
  }
  for (;;) {
    signal?.throwIfAborted()
    const { sourceType } = options
    const batch = await adoptBatch(db, {
      ...{ table, columns, space, sourceType, visibility, batchSize, after: report.last },
    })
    report.rows += batch.rows
    report.chunks += batch.chunks
    report.vectors += batch.vectors
    for (const problem of PROBLEMS) report.skipped[problem] += batch.problems[problem] ?? 0
    report.last = batch.last ?? report.last
    if (batch.rows > 0) onProgress?.({ ...report, skipped: { ...report.skipped } })
    if (batch.rows < batchSize) return report
  }
}

function checkColumns(columns: AdoptedColumns): AdoptedColumns {
  const { organizationId, id, content, embedding, ownerId, metadata, occurredAt } = columns ?? {}
  const required = { organizationId, id, content, embedding }
  for (const [name, column] of Object.entries(required)) checkText(`columns.${name}`, column)
  for (const [name, column] of Object.entries({ ownerId, metadata, occurredAt })) {
    if (column !== undefined) checkText(`columns.${name}`, column)
  }
  return columns
}

interface SourceTable {
  name: SQL
  /** By which the batches go, and their types. */
  key: { column: string; type: string }[]
}

/** The types that a column may have. */
const TYPES: Record<keyof AdoptedColumns, RegExp> = {
  organizationId: /^uuid$/,
  ownerId: /^uuid$/,
  id: /./,
  content: /^(text|character varying)/,
  embedding: /(^|\.)(vector|halfvec)(\(\d+\))?$|^real\[\]$/,
  metadata: /^jsonb?$/,
  occurredAt: /^(timestamp|date)/,
}

const ROLES = [
  'organizationId',
  'id',
  'content',
  'embedding',
  'ownerId',
  'metadata',
  'occurredAt',
] as const satisfies (keyof AdoptedColumns)[]

/** What the catalog says of the table. */
async function describe(db: Database, name: string, columns: AdoptedColumns): Promise<SourceTable> {
  const parts = name.split('.')
  if (parts.length !== 2) throw new ValidationError('table', 'must be schema.table')
  const rows = await rowsOf<{ column: string; type: string }>(
    db,
    sql`
      select a.attname as column, format_type(a.atttypid, a.atttypmod) as type
      from pg_catalog.pg_attribute a
      where a.attrelid = to_regclass(format('%I.%I', ${parts[0]}::text, ${parts[1]}::text))
        and a.attnum > 0 and not a.attisdropped`,
  )
  if (rows.length === 0) throw new ValidationError('table', `${name} does not exist`)
  const types = new Map(rows.map(({ column, type }) => [column, type]))
  for (const role of ROLES) {
    const column = columns[role]
    if (column === undefined) continue
    const type = types.get(column)
    if (type === undefined) {
      throw new ValidationError(`columns.${role}`, `is ${column}, which ${name} does not have`)
    }
    if (!TYPES[role].test(type)) {
      throw new ValidationError(`columns.${role}`, `is of the type ${type}`)
    }
  }
  const { organizationId, id } = columns
  const keys = await rowsOf<{ columns: string[] }>(
    db,
    sql`
      select (select json_agg(a.attname order by k.place) from unnest(i.indkey) with ordinality k (num, place)
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num) as columns
      from pg_catalog.pg_index i
      where i.indrelid = to_regclass(format('%I.%I', ${parts[0]}::text, ${parts[1]}::text))
        and i.indisunique and i.indisvalid and i.indpred is null`,
  )
  const key = [[id], [organizationId, id], [id, organizationId]].find((one) =>
    keys.some(
      ({ columns: has }) => has?.length === one.length && has.every((it, at) => it === one[at]),
    ),
  )
  if (!key) {
    throw new ValidationError(
      'columns.id',
      'must have a unique index of its own, or with the organization',
    )
  }
  return {
    name: sql`${sql.identifier(parts[0] ?? '')}.${sql.identifier(parts[1] ?? '')}`,
    key: key.map((column) => ({ column, type: types.get(column) ?? 'text' })),
  }
}

interface BatchOptions {
  table: SourceTable
  columns: AdoptedColumns
  space: Space
  sourceType: string
  visibility: Visibility
  batchSize: number
  after: readonly string[] | undefined
}

interface BatchReport {
  rows: number
  chunks: number
  vectors: number
  problems: Partial<AdoptedVectors['skipped']>
  last: string[] | null
}

/** One batch, in one statement and so in one transaction. */
async function adoptBatch(
  db: Database,
  { table, columns, space, sourceType, visibility, batchSize, after }: BatchOptions,
): Promise<BatchReport> {
  const column = (name: string | undefined, otherwise: string) =>
    name === undefined ? sql.raw(otherwise) : sql`t.${sql.identifier(name)}`
  const list = (items: SQL[]) => sql.join(items, sql`, `)
  const key = list(table.key.map((it) => sql`t.${sql.identifier(it.column)}`))
  const cursor = after
    ? sql`and (${key}) > (${list(table.key.map(({ type }, at) => sql`${after[at]}::text::${sql.raw(type)}`))})`
    : sql``
  const isOfRow = sql`c.organization_id = j.organization_id and c.source_type = ${sourceType} and c.source_id = j.source_id`
  return only(
    await rowsOf<BatchReport>(
      db,
      sql`
      with batch as materialized (
        select row_number() over (order by ${key}) as place,
          json_build_array(${list(table.key.map((it) => sql`t.${sql.identifier(it.column)}::text`))}) as key,
          t.${sql.identifier(columns.organizationId)} as organization_id,
          t.${sql.identifier(columns.id)}::text as source_id,
          t.${sql.identifier(columns.content)}::text as content,
          t.${sql.identifier(columns.embedding)}::real[] as vector,
          ${column(columns.ownerId, 'null::uuid')} as owner_id,
          coalesce(${column(columns.metadata, 'null')}::jsonb, '{}') as metadata,
          coalesce(${column(columns.occurredAt, 'null')}::timestamptz, now()) as occurred_at
        from ${table.name} t
        where t.${sql.identifier(columns.id)} is not null ${cursor}
        order by ${key} limit ${batchSize}
      ), judged as materialized (
        select b.*, sha256(convert_to(b.content, 'UTF8')) as hash, case
          when b.content is null or b.content = '' or b.vector is null
            or length(b.source_id) not between 1 and 1000 or jsonb_typeof(b.metadata) <> 'object'
            or not exists (select from ${organizations} o where o.id = b.organization_id)
            or (b.owner_id is null and ${visibility === 'private'})
            or (b.owner_id is not null and not exists (select from ${users} u where u.id = b.owner_id))
            then 'incomplete'
          when octet_length(b.content) > ${MAX_CONTENT}::integer then 'tooLong'
          when cardinality(b.vector) <> ${space.dimensions}::integer then 'dimensions'
          when array_position(b.vector, null) is not null or exists (select from unnest(b.vector) x
            where not abs(x) <= ${HALF_MAX}::real) then 'notFinite'
          when not exists (select from unnest(b.vector) x where abs(x) > ${HALF_TINY}::real) then 'zero'
        end as problem
        from batch b
      ), added as (
        insert into ${chunks} (organization_id, id, owner_id, source_type, source_id, position, visibility,
          purpose, content, content_hash, metadata, token_count, occurred_at)
        select j.organization_id, identity.uuid_v7(), j.owner_id, ${sourceType}, j.source_id, 0,
          ${visibility}::${visibilities}, ${space.purpose}, j.content, j.hash, j.metadata,
          ceil(length(j.content) / 4.0)::integer, j.occurred_at
        from judged j
        where j.problem is null and not exists (select from ${chunks} c where ${isOfRow})
        order by j.place
        returning organization_id, id, source_id, owner_id, visibility
      ), present as (
        select a.organization_id, a.id, a.source_id, a.owner_id, a.visibility from added a
        union all
        select c.organization_id, c.id, c.source_id, c.owner_id, c.visibility
        from judged j join ${chunks} c on ${isOfRow}
        where j.problem is null and c.position = 0 and c.content_hash = j.hash
          and c.purpose = ${space.purpose}
      ), vectors as (
        insert into ${embeddings} (organization_id, space_id, chunk_id, owner_id, visibility, source_type,
          embedding, content_hash)
        select p.organization_id, ${space.id}::uuid, p.id, p.owner_id, p.visibility, ${sourceType},
          j.vector::public.halfvec, j.hash
        from present p
        join judged j on j.organization_id = p.organization_id and j.source_id = p.source_id
        on conflict do nothing
        returning 1
      ), problems as (
        select j.problem as name, count(*)::integer as rows from judged j
        where j.problem is not null group by j.problem
        union all
        select 'changed', count(*)::integer from judged j
        where j.problem is null and not exists (select from present p
          where p.organization_id = j.organization_id and p.source_id = j.source_id)
      )
      select (select count(*)::integer from batch) as rows, (select count(*)::integer from added) as chunks,
        (select count(*)::integer from vectors) as vectors,
        (select json_object_agg(p.name, p.rows) from problems p) as problems,
        (select b.key from batch b order by b.place desc limit 1) as last`,
    ),
  )
}
