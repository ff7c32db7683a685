import { type SQL, sql } from 'drizzle-orm'
import { type Connection, connect, type Database, mapErrors, only, rowsOf } from '../database.ts'
import { vectorText } from '../embedding.ts'
import { StoreError, ValidationError } from '../errors.ts'
import { MAX_DIMENSIONS, type SpaceDistance, spaceDistance } from '../schema/search.ts'
import { checkInteger, checkLimit, checkOneOf, checkText, checkUuid } from '../validation.ts'
import {
  checkKeys,
  checkNamespaceName,
  MAX_RECORDS,
  type StoredVector,
  type VectorStore,
  within,
} from './vector-store.ts'

export interface PgvectorStoreOptions {
  /** Of the server. Its login owns the schema, or may create it. */
  url?: string
  /** Instead of a url: a database that is open, and stays open when the store is closed. */
  db?: Database
  /** As namespaces have it as `provider`; `pgvector` unless said. */
  name?: string
  /** In which the tables are; `vectors` unless said. Not one that another tool keeps. */
  schema?: string
  /** For each call; 10,000 unless said. */
  timeoutMs?: number
  /** Up to so many vectors of an organization are scanned exactly; beyond, the HNSW index is used. */
  exactRows?: number
}

const OPERATORS: Record<SpaceDistance, { operator: string; class: string }> = {
  cosine: { operator: '<=>', class: 'halfvec_cosine_ops' },
  l2: { operator: '<->', class: 'halfvec_l2_ops' },
  inner_product: { operator: '<#>', class: 'halfvec_ip_ops' },
}

interface Kind {
  dimensions: number
  distance: SpaceDistance
}

/**
 * Vectors in another Postgres with pgvector: a table for each namespace, searched exactly for a small
 * organization and by HNSW for a large one, and never short of what there is.
 *
 * The first call opens the connection. With `db` the times of its own connections hold as well.
 *
 * @throws {ValidationError} for an option out of range.
 */
export function pgvectorStore(options: PgvectorStoreOptions): VectorStore {
  const { name = 'pgvector', schema = 'vectors', timeoutMs = 10_000, exactRows = 4_000 } = options
  checkText('name', name, { max: 100 })
  checkText('schema', schema, { max: 63 })
  checkInteger('timeoutMs', timeoutMs, { min: 1, max: 600_000 })
  checkInteger('exactRows', exactRows)
  if (!options.url === !options.db) throw new ValidationError('url', 'or db must be given')

  let connection: Promise<Connection> | undefined
  let isClosed = false
  const database = async (): Promise<Database> => {
    if (isClosed) throw new StoreError(name, 'unavailable', 'the store is closed')
    if (options.db) return options.db
    connection ??= connect(options.url, {
      maxConnections: 4,
      statementTimeoutMs: timeoutMs,
      acquireTimeoutMs: timeoutMs,
      connectTimeoutMs: timeoutMs,
    })
    return connection
  }
  const call = <T>(signal: AbortSignal | undefined, work: (db: Database) => Promise<T>) =>
    within({ store: name, timeoutMs, signal }, async () => work(await database()))

  const catalog = sql`${sql.identifier(schema)}.${sql.identifier('_namespaces')}`
  const tableOf = (namespace: string): SQL => {
    checkNamespaceName(name, namespace)
    return sql`${sql.identifier(schema)}.${sql.identifier(namespace)}`
  }
  const kinds = new Map<string, Kind>()
  const kindOf = async (db: Database, namespace: string): Promise<Kind> => {
    const known = kinds.get(namespace)
    if (known) return known
    const [kind] = await rowsOf<Kind>(
      db,
      sql`select dimensions, distance from ${catalog} where name = ${namespace}`,
    )
    if (!kind) throw new StoreError(name, 'refused', `namespace ${namespace} not found`)
    kinds.set(namespace, kind)
    return kind
  }
  const keysOf = (
    keys: readonly object[],
  ) => sql`json_to_recordset(${JSON.stringify(keys)}::text::json)
    as k ("organizationId" uuid, id uuid)`

  return {
    name,
    ensureNamespace: async ({ namespace, dimensions, distance, signal }) => {
      checkInteger('dimensions', dimensions, { min: 1, max: MAX_DIMENSIONS })
      checkOneOf('distance', distance, spaceDistance.enumValues)
      const table = tableOf(namespace)
      return call(signal, async (db) => {
        await mapErrors(() =>
          db.transaction((tx) =>
            create(tx, { table, catalog, schema, namespace, dimensions, distance }),
          ),
        )
        kinds.delete(namespace)
        const kind = await kindOf(db, namespace)
        if (kind.dimensions !== dimensions || kind.distance !== distance) {
          throw new StoreError(
            name,
            'refused',
            `namespace ${namespace} is for ${kind.dimensions} dimensions by ${kind.distance}`,
          )
        }
      })
    },

    upsert: async (namespace, records, { signal } = {}) => {
      checkKeys(records)
      if (records.length === 0) return
      const table = tableOf(namespace)
      const rows = records.map(({ organizationId, id, hash, vector }) => ({
        ...{ organizationId, id, hash },
        v: vectorText(vector),
      }))
      await call(signal, (db) =>
        rowsOf(
          db,
          sql`
            insert into ${table} (organization_id, id, hash, embedding)
            select k."organizationId", k.id, k.hash, k.v::public.halfvec
            from json_to_recordset(${JSON.stringify(rows)}::text::json)
              as k ("organizationId" uuid, id uuid, hash text, v text)
            on conflict (organization_id, id) do update set hash = excluded.hash, embedding = excluded.embedding`,
        ),
      )
    },

    delete: async (namespace, keys, { signal } = {}) => {
      checkKeys(keys)
      if (keys.length === 0) return
      const table = tableOf(namespace)
      const these = keys.map(({ organizationId, id }) => ({ organizationId, id }))
      await call(signal, (db) =>
        rowsOf(
          db,
          sql`delete from ${table} as t using ${keysOf(these)}
              where t.organization_id = k."organizationId" and t.id = k.id`,
        ),
      )
    },

    query: async (namespace, { organizationId, vector, limit, signal }) => {
      checkUuid('organizationId', organizationId)
      checkLimit(limit, 20_000)
      const table = tableOf(namespace)
      return call(signal, async (db) => {
        const kind = await kindOf(db, namespace)
        if (vector.length !== kind.dimensions) {
          throw new StoreError(
            name,
            'refused',
            `the vector has ${vector.length} dimensions, and ${namespace} has ${kind.dimensions}`,
          )
        }
        return nearest(db, {
          ...kind,
          table,
          organizationId,
          text: vectorText(vector),
          limit,
          exactRows,
        })
      })
    },

    describe: async (namespace, { signal } = {}) => {
      const table = tableOf(namespace)
      const label = `"${schema.replaceAll('"', '""')}"."${namespace}"`
      return call(signal, async (db) => {
        const { dimensions } = await kindOf(db, namespace)
        const { vectors, bytes } = only(
          await rowsOf<{ vectors: string; bytes: string }>(
            db,
            sql`select count(*)::text as vectors,
                pg_total_relation_size(${label}::regclass)::text as bytes from ${table}`,
          ),
        )
        return { vectors: Number(vectors), bytes: Number(bytes), dimensions }
      })
    },

    fetch: async (namespace, keys, { vectors = false, signal } = {}) => {
      checkKeys(keys)
      if (keys.length === 0) return []
      const table = tableOf(namespace)
      const these = keys.map(({ organizationId, id }) => ({ organizationId, id }))
      const rows = await call(signal, (db) =>
        rowsOf<StoredRow>(
          db,
          sql`select t.organization_id as "organizationId", t.id, t.hash,
                ${vectors ? sql`t.embedding::text` : sql`null::text`} as vector
              from ${table} t join ${keysOf(these)}
                on t.organization_id = k."organizationId" and t.id = k.id`,
        ),
      )
      return rows.map(storedOf)
    },

    list: async (namespace, { after, limit, signal }) => {
      checkLimit(limit, MAX_RECORDS)
      if (after) checkKeys([after])
      const table = tableOf(namespace)
      const rows = await call(signal, (db) =>
        rowsOf<StoredRow>(
          db,
          sql`select t.organization_id as "organizationId", t.id, t.hash, null::text as vector
              from ${table} t
              ${after ? sql`where (t.organization_id, t.id) > (${after.organizationId}::uuid, ${after.id}::uuid)` : sql``}
              order by t.organization_id, t.id limit ${limit}`,
        ),
      )
      return rows.map(storedOf)
    },

    dropNamespace: async (namespace, { signal } = {}) => {
      const table = tableOf(namespace)
      return call(signal, async (db) => {
        kinds.delete(namespace)
        const [found] = await rowsOf(db, sql`select from pg_namespace where nspname = ${schema}`)
        if (!found) return
        await mapErrors(() =>
          db.transaction(async (tx) => {
            await rowsOf(tx, sql`drop table if exists ${table}`)
            await rowsOf(tx, sql`delete from ${catalog} where name = ${namespace}`)
          }),
        )
      })
    },

    close: async () => {
      isClosed = true
      const open = await connection?.catch(() => undefined)
      await open?.close()
    },
  }
}

type StoredRow = Omit<StoredVector, 'vector'> & { vector: string | null }

const storedOf = ({ vector, ...row }: StoredRow): StoredVector => ({
  ...row,
  ...(vector !== null && { vector: JSON.parse(vector) }),
})

interface NewTable extends Kind {
  table: SQL
  catalog: SQL
  schema: string
  namespace: string
}

async function create(
  tx: Database,
  { table, catalog, schema, namespace, dimensions, distance }: NewTable,
): Promise<void> {
  await rowsOf(tx, sql`select pg_advisory_xact_lock(hashtextextended('plinth.vectors', 0))`)
  await rowsOf(tx, sql`create extension if not exists vector with schema public`)
  await rowsOf(tx, sql`create schema if not exists ${sql.identifier(schema)}`)
  await rowsOf(
    tx,
    sql`create table if not exists ${catalog} (name text primary key, dimensions integer not null, distance text not null)`,
  )
  const created = await rowsOf(
    tx,
    sql`insert into ${catalog} (name, dimensions, distance) values (${namespace}, ${dimensions}, ${distance})
        on conflict do nothing returning name`,
  )
  if (created.length === 0) return
  const size = sql.raw(String(dimensions))
  // Indexes are named among the tables: as no namespace begins, so that none has the name of another one's.
  const named = (suffix: string) => sql.identifier(`_${namespace}_${suffix}`)
  // As the partitions of plinth's own spaces: the index is on a cast, so that a query chooses whether to use it.
  await rowsOf(
    tx,
    sql`create table ${table} (organization_id uuid, id uuid, hash text not null,
        embedding public.halfvec not null check (public.vector_dims(embedding) = ${size}),
        constraint ${named('pkey')} primary key (organization_id, id))`,
  )
  await rowsOf(tx, sql`alter table ${table} alter column embedding set storage plain`)
  await rowsOf(
    tx,
    sql`create index ${named('hnsw')} on ${table} using hnsw
        ((embedding::public.halfvec(${size})) public.${sql.identifier(OPERATORS[distance].class)})`,
  )
}

interface Nearest extends Kind {
  table: SQL
  organizationId: string
  text: string
  limit: number
  exactRows: number
}

interface Near {
  id: string
  distance: number
}

/** As `search.nearest_chunks`: by the index where the slice is large, and by a scan where that is too few. */
async function nearest(db: Database, options: Nearest): Promise<Near[]> {
  const { table, organizationId, text, limit, exactRows, distance, dimensions } = options
  const operator = sql`operator(public.${sql.raw(OPERATORS[distance].operator)})`
  const isOwn = sql`t.organization_id = ${organizationId}::uuid`
  const { isLarge } = only(
    await rowsOf<{ isLarge: boolean }>(
      db,
      sql`select exists (select from ${table} t where ${isOwn} offset ${exactRows} limit 1) as "isLarge"`,
    ),
  )
  if (isLarge) {
    const cast = sql`public.halfvec(${sql.raw(String(dimensions))})`
    const near = sql`t.embedding::${cast} ${operator} ${text}::${cast}`
    const found = await mapErrors(() =>
      db.transaction(async (tx) => {
        await rowsOf(tx, sql`set local hnsw.iterative_scan = 'relaxed_order'`)
        await rowsOf(tx, sql`set local hnsw.ef_search = 200`)
        return rowsOf<Near>(
          tx,
          sql`select * from (select t.id, ${near} as distance from ${table} t where ${isOwn}
              order by ${near} limit ${limit}) as near order by distance, id`,
        )
      }),
    )
    if (found.length >= limit) return found
  }
  return rowsOf<Near>(
    db,
    sql`select t.id, t.embedding ${operator} ${text}::public.halfvec as distance from ${table} t where ${isOwn}
        order by distance, t.id limit ${limit}`,
  )
}
