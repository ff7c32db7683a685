import type { Sql } from 'postgres'
import type { Database } from '../../src/database.ts'
import { createSpace } from '../../src/queries/spaces.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import type { Space } from '../../src/schema/search.ts'
import type { Peer } from './peers.ts'
import { printRows } from './report.ts'

/** What a table and its index have cost. */
interface Built {
  name: string
  table: string
  /** Of the vector index; NaN without one. */
  buildMs: number
}

/** The table of a space's vectors. */
const partitionOf = (space: Space) => `partitions.embeddings_${space.id.replaceAll('-', '')}`

/** Empties what the part before has left, and makes a space that is as empty. */
export async function makeSpaceAlone(sql: Sql, db: Database, dimensions: number): Promise<Space> {
  await sql.unsafe('truncate search.chunks cascade')
  const purpose = uuidV7()
  return createSpace(db, { provider: 'bench', model: 'clusters', dimensions, purpose })
}

/** Loads items from a position on into our tables, while these have no index to be kept. */
export async function loadOurs(sql: Sql, space: Space, from = 0): Promise<Built[]> {
  const partition = partitionOf(space)
  const times = await withoutIndexes(sql, ['search.chunks', partition], async () => {
    await sql`
      insert into search.chunks (organization_id, id, source_type, source_id, position, purpose, content,
        content_hash, metadata, token_count)
      select organization_id, id, 'note', id::text, 0, ${space.purpose}, content, sha256(content::bytea),
        jsonb_build_object('position', position), length(content) / 4
      from bench.items where position >= ${from}`
    await sql`
      insert into search.embeddings (organization_id, space_id, chunk_id, visibility, source_type, embedding, content_hash)
      select organization_id, ${space.id}, id, 'shared', 'note', embedding, sha256(content::bytea)
      from bench.items where position >= ${from}`
  })
  await sql.unsafe(`vacuum analyze search.chunks, ${partition}`)
  return [
    { name: 'plinth, vectors', table: partition, buildMs: times.get('hnsw') ?? Number.NaN },
    {
      name: 'plinth, texts and their search',
      table: 'search.chunks',
      buildMs: times.get('gin') ?? Number.NaN,
    },
  ]
}

/** Builds the indexes that are of no constraint afterwards. Milliseconds, by kind of index. */
async function withoutIndexes(sql: Sql, tables: string[], load: () => Promise<void>) {
  const indexes = await sql<{ name: string; definition: string; kind: string }[]>`
    select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition, a.amname as kind
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
    where i.indrelid = any(select t::regclass from unnest(${tables}::text[]) t)
      and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
      and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid)`
  for (const { name } of indexes) await sql.unsafe(`drop index ${name}`)
  await load()
  const times = new Map<string, number>()
  for (const { definition, kind } of indexes) {
    const took = await timed(() => sql.unsafe(definition))
    times.set(kind, (times.get(kind) ?? 0) + took)
  }
  return times
}

/** pgvector as its README has it: single precision, HNSW, and an index on what is filtered by. */
export async function loadPlain(sql: Sql, dimensions: number): Promise<Built> {
  const table = 'bench.plain'
  await sql.unsafe(`
    create table ${table} (id uuid primary key, organization_id uuid not null, content text not null,
      metadata jsonb not null, embedding public.vector(${dimensions}) not null);
    insert into ${table} select id, organization_id, content, jsonb_build_object('position', position), embedding
      from bench.items;
    create index on ${table} (organization_id)`)
  const buildMs = await timed(() =>
    sql.unsafe(`create index on ${table} using hnsw (embedding public.vector_cosine_ops)`),
  )
  await sql.unsafe(`vacuum analyze ${table}`)
  return { name: 'pgvector', table, buildMs }
}

export async function loadPeer(sql: Sql, peer: Peer): Promise<Built> {
  const { table, fill, buildIndex } = peer
  await sql.unsafe(fill)
  const buildMs = buildIndex ? await timed(buildIndex) : Number.NaN
  await sql.unsafe(`vacuum analyze ${table}`)
  const name = (Object.keys(peer.searches)[0] ?? '').split(',')[0] ?? ''
  return { name, table, buildMs }
}

async function timed(work: () => PromiseLike<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** Prints what each index took to build, and what a row of it and of its table takes, in bytes. */
export async function printSizes(sql: Sql, title: string, built: readonly Built[]): Promise<void> {
  const [counted] = await sql<{ rows: number }[]>`select count(*)::integer as rows from bench.items`
  const rows = counted?.rows ?? 0
  const lines: string[][] = []
  for (const { name, table, buildMs } of built) {
    const [size] = await sql<{ index: number; heap: number; total: number }[]>`
      select pg_table_size(${table}::regclass)::float8 as heap, pg_total_relation_size(${table}::regclass)::float8 as total,
        coalesce(sum(pg_relation_size(c.oid)) filter (where a.amname in ('hnsw', 'ivfflat')), 0)::float8 as index
      from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
      where i.indrelid = ${table}::regclass`
    const { heap = 0, index = 0, total = 0 } = size ?? {}
    lines.push([
      name,
      Number.isNaN(buildMs) ? '-' : (buildMs / 1000).toFixed(1),
      ...[heap, index, total - heap - index, total].map((bytes) => (bytes / rows).toFixed(0)),
    ])
  }
  printRows(
    title,
    ['', 'index built in s', 'table B/row', 'vector index B/row', 'other indexes', 'all B/row'],
    lines,
  )
}
