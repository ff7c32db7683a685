import { sql } from 'drizzle-orm'
import { connect, type Database, rowsOf } from '../src/database.ts'
import { vectorText } from '../src/embedding.ts'
import { search } from '../src/queries/search.ts'
import { createSpace } from '../src/queries/spaces.ts'
import { uuidV7 } from '../src/schema/columns.ts'
import type { Space } from '../src/schema/search.ts'
import { inTenant, type Scope, type Tenant } from '../src/tenant.ts'
import { makeScope, unitVector } from '../src/testing/factories.ts'
import { measureAll, printTable } from './support.ts'

const DIMENSIONS = 384
const CENTRES = 200
const K = 10
const QUERIES = 40
const SIZES = [500, 4_000, 12_000]
/** Rows of other tenants in the same partition. */
const OTHERS = 20_000

/**
 * S5, and what S6 will ask: filtered top-10 at the slice sizes below and above the exact threshold, against
 * an exact scan of the slice and against plain filtered HNSW, with the recall of each.
 */
export async function retrieval(url: string): Promise<void> {
  const db = await connect(url, { statementTimeoutMs: 900_000 })
  try {
    const space = await createSpace(db, {
      provider: 'bench',
      model: 'clusters',
      dimensions: DIMENSIONS,
      purpose: uuidV7(),
    })
    const scopes: { size: number; scope: Scope }[] = []
    for (const [at, size] of [OTHERS, ...SIZES].entries()) {
      const scope = await makeScope(db)
      await fill(db, scope, space, { from: at * 1_000_000, size })
      if (at > 0) scopes.push({ size, scope })
    }

    await db.execute(sql`vacuum analyze search.embeddings, search.chunks`)
    for (const { size, scope } of scopes) await compare(db, space, scope, size)
  } finally {
    await db.close()
  }
}

/** Vectors in clusters, as those of real texts are. */
function clustered(seed: number): number[] {
  const centre = unitVector(seed % CENTRES, DIMENSIONS)
  const noise = unitVector(seed + 7_919, DIMENSIONS)
  return centre.map((value, at) => value + 0.8 * (noise[at] ?? 0))
}

async function fill(
  db: Database,
  { organizationId }: Scope,
  space: Space,
  { from, size }: { from: number; size: number },
) {
  for (let done = 0; done < size; done += 1_000) {
    const rows = Array.from({ length: Math.min(1_000, size - done) }, (_, at) => ({
      id: uuidV7(),
      v: vectorText(clustered(from + done + at)),
    }))
    const records = JSON.stringify(rows)
    await db.execute(sql`
      insert into search.chunks (organization_id, id, source_type, source_id, position, content, content_hash, token_count)
      select ${organizationId}, id, 'note', id::text, 0, 'x', sha256('x'), 1
      from json_to_recordset(${records}::text::json) as r (id uuid)`)
    await db.execute(sql`
      insert into search.embeddings (organization_id, space_id, chunk_id, visibility, source_type, embedding)
      select ${organizationId}, ${space.id}, id, 'shared', 'note', v::public.halfvec
      from json_to_recordset(${records}::text::json) as r (id uuid, v text)`)
  }
}

async function compare(db: Database, space: Space, scope: Scope, size: number) {
  const queries = Array.from({ length: QUERIES }, (_, at) => clustered(900_000_000 + at * 31))
  await inTenant(db, scope, async (tenant) => {
    const arms = {
      'exact scan of the slice, by hand': (query: number[]) => exact(tenant, space, query),
      'plinth search': async (embedding: number[]) =>
        (await search(tenant, { space, embedding, limit: K })).matches.map(
          ({ chunkId }) => chunkId,
        ),
      'plain filtered HNSW, ids only': (query: number[]) => plain(tenant, space, query),
    }
    const truth = await Promise.all(queries.map(arms['exact scan of the slice, by hand']))
    const found = await Promise.all(Object.values(arms).map((arm) => Promise.all(queries.map(arm))))
    let turn = 0
    const next = () => {
      turn += 1
      return queries[turn % QUERIES] ?? []
    }
    const measurements = await measureAll(
      Object.fromEntries(Object.entries(arms).map(([name, arm]) => [name, () => arm(next())])),
      { warmup: 20, rounds: 120 },
    )
    printTable(
      `S5: top ${K} of ${size} rows of a tenant, ${DIMENSIONS} dimensions`,
      measurements.map((measurement, at) => ({
        ...measurement,
        name: `${measurement.name}, recall ${recall(truth, found[at] ?? []).toFixed(3)}`,
      })),
    )
  })
}

const recall = (truth: readonly string[][], found: readonly string[][]): number =>
  truth.reduce(
    (sum, ids, at) => sum + ids.filter((id) => found[at]?.includes(id)).length / ids.length,
    0,
  ) / truth.length

/** As somebody would write it who knows that the slice is small. */
async function exact(tenant: Tenant, space: Space, query: number[]): Promise<string[]> {
  const rows = await rowsOf<{ id: string }>(
    tenant.db,
    sql`
      select c.*, near.distance from (
        select e.chunk_id, e.embedding operator(public.<=>) ${vectorText(query)}::public.halfvec as distance
        from search.embeddings e
        where e.organization_id = ${tenant.organizationId} and e.space_id = ${space.id}
        order by distance limit ${K}
      ) as near join search.chunks c
        on c.organization_id = ${tenant.organizationId} and c.id = near.chunk_id
      order by near.distance`,
  )
  return rows.map(({ id }) => id)
}

/** What everybody writes first: the index, and the tenant as a filter on what comes out of it. */
async function plain(tenant: Tenant, space: Space, query: number[]): Promise<string[]> {
  const vector = sql`${vectorText(query)}::public.halfvec(${sql.raw(String(DIMENSIONS))})`
  const rows = await rowsOf<{ id: string }>(
    tenant.db,
    sql`
      with settings as materialized (select set_config('hnsw.iterative_scan', 'off', true),
        set_config('hnsw.ef_search', '40', true), set_config('enable_sort', 'off', true))
      select e.chunk_id as id from search.embeddings e
      where (select count(*) from settings) = 1
        and e.organization_id = ${tenant.organizationId} and e.space_id = ${space.id}
      order by e.embedding::public.halfvec(${sql.raw(String(DIMENSIONS))}) operator(public.<=>) ${vector} limit ${K}`,
  )
  return rows.map(({ id }) => id)
}
