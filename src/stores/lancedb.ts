import type { Connection, Table } from '@lancedb/lancedb'
import type { Schema } from 'apache-arrow'
import { optional } from '../database.ts'
import { MissingPackageError, StoreError } from '../errors.ts'
import { MAX_DIMENSIONS, type SpaceDistance, spaceDistance } from '../schema/search.ts'
import { checkInteger, checkLimit, checkOneOf, checkText, checkUuid } from '../validation.ts'
import {
  checkKeys,
  checkNamespaceName,
  MAX_RECORDS,
  type NearVector,
  type StoredVector,
  type VectorKey,
  type VectorStore,
  within,
} from './vector-store.ts'

export interface LancedbStoreOptions {
  /** A folder, or what else LanceDB opens, such as `s3://bucket/path`. */
  uri: string
  /** As namespaces have it as `provider`; `lancedb` unless said. */
  name?: string
  /** For each call; 10,000 unless said. */
  timeoutMs?: number
  /** After how many writes to a namespace its files are made into fewer; 50 unless said. */
  compactEvery?: number
}

/** LanceDB's names, and what makes pgvector's distances of its own: squared, and 1 more than the negative. */
const METRICS: Record<
  SpaceDistance,
  { name: 'cosine' | 'l2' | 'dot'; of: (own: number) => number }
> = {
  cosine: { name: 'cosine', of: (own) => own },
  l2: { name: 'l2', of: (own) => Math.sqrt(own) },
  inner_product: { name: 'dot', of: (own) => own - 1 },
}

const PACKAGES = ['@lancedb/lancedb', 'apache-arrow']
const ROW_COLUMNS = ['organization_id', 'id', 'hash']

interface Opened {
  table: Table
  schema: Schema
  dimensions: number
  distance: SpaceDistance
}

/** A row as LanceDB gives it; `vector` is Arrow's own list. */
interface LanceRow {
  organization_id: string
  id: string
  hash: string
  vector?: Iterable<number>
}

/**
 * Vectors in LanceDB, embedded: files in a folder or an object store, no server. Organizations are a
 * column, every search is a scan of one organization, and so exact. In half precision, as plinth's own.
 *
 * @throws {ValidationError} for an option out of range. Each call: {MissingPackageError} without the packages
 * `@lancedb/lancedb` and `apache-arrow`, which are optional peers.
 */
export function lancedbStore({
  uri,
  name = 'lancedb',
  timeoutMs = 10_000,
  compactEvery = 50,
}: LancedbStoreOptions): VectorStore {
  checkText('uri', uri)
  checkText('name', name, { max: 100 })
  checkInteger('timeoutMs', timeoutMs, { min: 1, max: 600_000 })
  checkInteger('compactEvery', compactEvery, { min: 1 })

  let opening: Promise<Connection> | undefined
  let isClosed = false
  const tables = new Map<string, Promise<Opened>>()
  const writes = new Map<string, number>()

  const connection = async (): Promise<Connection> => {
    const { lance } = await packages()
    // Each read looks for what another process has written.
    opening ??= lance.connect(uri, { readConsistencyInterval: 0 })
    return opening.catch((error) => {
      opening = undefined
      throw error
    })
  }
  const open = async (namespace: string): Promise<Opened> => {
    checkNamespaceName(name, namespace)
    if (isClosed) throw new StoreError(name, 'unavailable', 'the store is closed')
    const known = tables.get(namespace)
    if (known) return known
    const opened = (async () => describeTable(await (await connection()).openTable(namespace)))()
    tables.set(namespace, opened)
    return opened.catch((error) => {
      tables.delete(namespace)
      throw error
    })
  }
  const call = async <T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> => {
    // Loaded first: the first time, that takes seconds and is not the engine's doing.
    await packages()
    return within({ store: name, timeoutMs, signal }, async () => {
      if (isClosed) throw new StoreError(name, 'unavailable', 'the store is closed')
      return work().catch((error) => {
        throw kindOfError(name, error)
      })
    })
  }
  const compact = async (namespace: string, table: Table) => {
    const count = (writes.get(namespace) ?? 0) + 1
    writes.set(namespace, count)
    if (count % compactEvery === 0) await table.optimize()
  }

  return {
    name,
    ensureNamespace: async ({ namespace, dimensions, distance, signal }) => {
      checkInteger('dimensions', dimensions, { min: 1, max: MAX_DIMENSIONS })
      checkOneOf('distance', distance, spaceDistance.enumValues)
      return call(signal, async () => {
        checkNamespaceName(name, namespace)
        const schema = await schemaOf({ dimensions, distance })
        tables.delete(namespace)
        await (await connection()).createEmptyTable(namespace, schema, { existOk: true })
        const found = await open(namespace)
        if (found.dimensions !== dimensions || found.distance !== distance) {
          throw new StoreError(
            name,
            'refused',
            `namespace ${namespace} is for ${found.dimensions} dimensions by ${found.distance}`,
          )
        }
      })
    },

    upsert: async (namespace, records, { signal } = {}) => {
      checkKeys(records)
      if (records.length === 0) return
      await call(signal, async () => {
        const { table, schema, dimensions } = await open(namespace)
        const { lance } = await packages()
        const rows = records.map(({ organizationId, id, hash, vector }) => {
          // LanceDB takes one of another length, and then finds nothing.
          if (vector.length !== dimensions) {
            throw new StoreError(
              name,
              'refused',
              `the vector of ${id} has ${vector.length} dimensions, and ${namespace} has ${dimensions}`,
            )
          }
          return { organization_id: organizationId, id, hash, vector: vector.map(toHalf) }
        })
        await table
          .mergeInsert(['organization_id', 'id'])
          .whenMatchedUpdateAll()
          .whenNotMatchedInsertAll()
          .execute(lance.makeArrowTable(rows, { schema }))
        await compact(namespace, table)
      })
    },

    delete: async (namespace, keys, { signal } = {}) => {
      checkKeys(keys)
      if (keys.length === 0) return
      await call(signal, async () => {
        const { table } = await open(namespace)
        await table.delete(isOneOf(keys))
        await compact(namespace, table)
      })
    },

    query: async (namespace, { organizationId, vector, limit, signal }) => {
      checkUuid('organizationId', organizationId)
      checkLimit(limit, 20_000)
      return call(signal, async () => {
        const opened = await open(namespace)
        if (vector.length !== opened.dimensions) {
          throw new StoreError(
            name,
            'refused',
            `the vector has ${vector.length} dimensions, and ${namespace} has ${opened.dimensions}`,
          )
        }
        return nearest(opened, { organizationId, vector: vector.map(toHalf), limit })
      })
    },

    describe: async (namespace, { signal } = {}) =>
      call(signal, async () => {
        const { table, dimensions } = await open(namespace)
        const { numRows, totalBytes } = await table.stats()
        return { vectors: numRows, bytes: totalBytes, dimensions }
      }),

    fetch: async (namespace, keys, { vectors = false, signal } = {}) => {
      checkKeys(keys)
      if (keys.length === 0) return []
      return call(signal, async () => {
        const { table } = await open(namespace)
        const rows: LanceRow[] = await table
          .query()
          .where(isOneOf(keys))
          .select(vectors ? [...ROW_COLUMNS, 'vector'] : ROW_COLUMNS)
          .toArray()
        return rows.map(storedOf)
      })
    },

    list: async (namespace, { after, limit, signal }) => {
      checkLimit(limit, MAX_RECORDS)
      if (after) checkKeys([after])
      return call(signal, async () => {
        const { table } = await open(namespace)
        const query = table.query().select(ROW_COLUMNS)
        if (after) {
          const [organization, id] = [after.organizationId.toLowerCase(), after.id.toLowerCase()]
          query.where(
            `organization_id > '${organization}' or (organization_id = '${organization}' and id > '${id}')`,
          )
        }
        const rows: LanceRow[] = await query
          .orderBy([{ columnName: 'organization_id' }, { columnName: 'id' }])
          .limit(limit)
          .toArray()
        return rows.map(storedOf)
      })
    },

    dropNamespace: async (namespace, { signal } = {}) =>
      call(signal, async () => {
        checkNamespaceName(name, namespace)
        tables.delete(namespace)
        const db = await connection()
        if ((await db.tableNames({ limit: 100_000 })).includes(namespace))
          await db.dropTable(namespace)
      }),

    close: async () => {
      if (isClosed) return
      isClosed = true
      for (const opened of tables.values()) (await opened.catch(() => undefined))?.table.close()
      const open = await opening?.catch(() => undefined)
      open?.close()
    },
  }
}

/** @throws {MissingPackageError} */
const packages = async () => {
  const [lance, arrow] = await optional(
    PACKAGES,
    Promise.all([import('@lancedb/lancedb'), import('apache-arrow')]),
  )
  return { lance, arrow }
}

async function schemaOf({ dimensions, distance }: Pick<Opened, 'dimensions' | 'distance'>) {
  const { Field, FixedSizeList, Float16, Schema, Utf8 } = (await packages()).arrow
  const item = new Field('item', new Float16(), true)
  return new Schema(
    [
      ...ROW_COLUMNS.map((column) => new Field(column, new Utf8(), false)),
      new Field('vector', new FixedSizeList(dimensions, item), false),
    ],
    new Map([['distance', distance]]),
  )
}

async function describeTable(table: Table): Promise<Opened> {
  const schema = await table.schema()
  const distance = schema.metadata.get('distance')
  checkOneOf('distance', distance, spaceDistance.enumValues)
  const type = schema.fields.find(({ name }) => name === 'vector')?.type
  const dimensions: unknown = type && 'listSize' in type ? type.listSize : undefined
  checkInteger('dimensions', dimensions, { min: 1, max: MAX_DIMENSIONS })
  return { table, schema, dimensions, distance }
}

/** The keys were checked, and so hold nothing but hexadecimal digits. */
function isOneOf(keys: readonly VectorKey[]): string {
  const ids = new Map<string, string[]>()
  for (const { organizationId, id } of keys) {
    const organization = organizationId.toLowerCase()
    ids.set(organization, [...(ids.get(organization) ?? []), `'${id.toLowerCase()}'`])
  }
  return [...ids]
    .map(
      ([organization, list]) =>
        `(organization_id = '${organization}' and id in (${list.join(',')}))`,
    )
    .join(' or ')
}

const storedOf = ({ organization_id, id, hash, vector }: LanceRow): StoredVector => ({
  ...{ organizationId: organization_id, id, hash },
  ...(vector && { vector: [...vector] }),
})

/** In half precision, to the nearest and half-way to even: Arrow takes what is too small for infinite. */
function toHalf(value: number): number {
  if (value === 0) return 0
  const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(value))), -14) - 10)
  const units = value / unit
  const down = Math.floor(units)
  const isUp = units - down === 0.5 ? down % 2 !== 0 : units - down > 0.5
  return (isUp ? down + 1 : down) * unit
}

/**
 * Of those that are as near as the last one, LanceDB gives any: so one more is asked for, and twice as many
 * for as long as the next one is as near.
 */
async function nearest(
  { table, distance }: Opened,
  { organizationId, vector, limit }: { organizationId: string; vector: number[]; limit: number },
): Promise<NearVector[]> {
  const { name, of } = METRICS[distance]
  for (let wanted = limit + 1; ; wanted *= 2) {
    const rows: { id: string; _distance: number }[] = await table
      .query()
      .where(`organization_id = '${organizationId.toLowerCase()}'`)
      .nearestTo(vector)
      .distanceType(name)
      .bypassVectorIndex()
      .select(['id', '_distance'])
      .limit(wanted)
      .toArray()
    const last = rows[limit - 1]
    const hasTie = last !== undefined && rows.at(-1)?._distance === last._distance
    if (rows.length === wanted && hasTie) continue
    return rows
      .map(({ id, _distance }) => ({ id, distance: of(_distance) }))
      .sort((a, b) => a.distance - b.distance || (a.id < b.id ? -1 : 1))
      .slice(0, limit)
  }
}

/** LanceDB has no codes: what cannot be read or written is told by its words. */
function kindOfError(store: string, error: unknown): unknown {
  if (error instanceof StoreError || error instanceof MissingPackageError) return error
  const message = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)
  const isAway = /\b(io|external) error|LanceError\(IO\)|not found|closed|no such file/i.test(
    message,
  )
  return new StoreError(store, isAway ? 'unavailable' : 'refused', message.slice(0, 500), {
    cause: error,
  })
}
