import { sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import { type EmbeddingModel, embedTexts, vectorText } from '../embedding.ts'
import {
  chunks,
  embeddingJobs,
  embeddings,
  type Space,
  spaces,
  visibility as visibilities,
} from '../schema/search.ts'
import type { Piece } from '../splitting.ts'
import type { Tenant } from '../tenant.ts'
import { checkVector } from '../validation.ts'
import type { Attributes, IndexSourceOptions, Source } from './source-attributes.ts'

/** Vectors in a statement: a few megabytes at the most dimensions, and a second's work of an HNSW index. */
const VECTOR_BATCH = 100

export interface Vectors {
  of: { id: string; hash: string; embedding: number[] }[]
  /** As the provider counts them. */
  tokens: number | undefined
}

/** What is to be embedded. */
type Passage = Piece & { id: string }

/**
 * The vectors of passages, in their order; none without a model. @throws {ValidationError} for what does not fit the
 * space, and what the model throws.
 */
export async function embedRows(
  rows: readonly Passage[],
  model: EmbeddingModel | undefined,
  space: Space | undefined,
  signal: AbortSignal | undefined,
): Promise<Vectors> {
  if (!model || !space || rows.length === 0) return { of: [], tokens: 0 }
  const { embeddings: made, tokens } = await embedTexts(
    model,
    rows.map(({ content }) => content),
    signal,
  )
  const of = rows.map(({ id, hash }, at) => {
    const embedding = made[at]
    checkVector(`embeddings[${at}]`, embedding, space.dimensions)
    return { id, hash: hash.toString('hex'), embedding: [...embedding] }
  })
  return { of, tokens }
}

/** Writes new vectors, and keeps the copies of owner and visibility what the chunks' are, in every space. */
export async function writeEmbeddings(
  { db, organizationId }: Tenant,
  { sourceType, sourceId, signal }: IndexSourceOptions,
  { ownerId, visibility }: Attributes,
  vectors: Vectors,
  space: Space | undefined,
): Promise<void> {
  await rowsOf(
    db,
    sql`
      update ${embeddings} as e set owner_id = ${ownerId}::uuid, visibility = ${visibility}::${visibilities}
      from ${chunks} c
      where e.organization_id = ${organizationId} and c.organization_id = ${organizationId}
        and c.source_type = ${sourceType} and c.source_id = ${sourceId} and e.chunk_id = c.id
        and (e.owner_id, e.visibility) is distinct from (${ownerId}::uuid, ${visibility}::${visibilities})`,
  )
  if (!space || vectors.of.length === 0) return
  for (let at = 0; at < vectors.of.length; at += VECTOR_BATCH) {
    signal?.throwIfAborted()
    const records = vectors.of
      .slice(at, at + VECTOR_BATCH)
      .map(({ id, hash, embedding }) => ({ id, hash, v: vectorText(embedding) }))
    await rowsOf(
      db,
      sql`
        insert into ${embeddings} (organization_id, space_id, chunk_id, owner_id, visibility,
          source_type, embedding, content_hash)
        select ${organizationId}, ${space.id}, new.id, ${ownerId}::uuid,
          ${visibility}::${visibilities}, ${sourceType}, new.v::public.halfvec,
          decode(new.hash, 'hex')
        from json_to_recordset(${JSON.stringify(records)}::text::json) as new (id uuid, hash text, v text)
        -- A worker may have been faster.
        on conflict (organization_id, space_id, chunk_id) do update set
          embedding = excluded.embedding, content_hash = excluded.content_hash,
          owner_id = excluded.owner_id, visibility = excluded.visibility
        returning chunk_id`,
    )
  }
}

/** Deletes the vectors of a source whose purpose has changed: those in the spaces of another one. */
export async function deleteForeignEmbeddings(
  { db, organizationId }: Tenant,
  { sourceType, sourceId }: Source,
): Promise<void> {
  await rowsOf(
    db,
    sql`
      delete from ${embeddings} e using ${chunks} c, ${spaces} s
      where e.organization_id = ${organizationId} and c.organization_id = ${organizationId}
        and c.source_type = ${sourceType} and c.source_id = ${sourceId} and e.chunk_id = c.id
        and s.id = e.space_id and s.purpose <> c.purpose
      returning e.chunk_id`,
  )
}

/** Adds a job for each chunk of a source that lacks its vector in a space that is filled or searched. */
export async function enqueueSource(
  { db, organizationId }: Tenant,
  { sourceType, sourceId }: Source,
): Promise<void> {
  // Without RETURNING, which would need the right to read jobs: a member adds what only admins see.
  await rowsOf(
    db,
    sql`
      insert into ${embeddingJobs} (organization_id, space_id, chunk_id)
      select c.organization_id, s.id, c.id
      from ${chunks} c
      join ${spaces} s on s.purpose = c.purpose and s.status in ('building', 'active')
      left join ${embeddings} e on e.organization_id = c.organization_id and e.space_id = s.id
        and e.chunk_id = c.id
      where c.organization_id = ${organizationId} and c.source_type = ${sourceType}
        and c.source_id = ${sourceId}
        and (e.chunk_id is null or e.content_hash <> c.content_hash)
      on conflict do nothing`,
  )
}
