import { and, asc, eq, getColumns, gt, sql } from 'drizzle-orm'
import { rowsOf, run } from '../database.ts'
import { type EmbeddingModel, embedTexts } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  type Chunk,
  chunks,
  embeddings,
  type Space,
  type Visibility,
  visibility as visibilities,
} from '../schema/search.ts'
import { type Piece, type SplitOptions, splitText } from '../splitting.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInstant,
  checkInteger,
  checkJson,
  checkLimit,
  checkOneOf,
  checkText,
  checkUuid,
  checkVector,
} from '../validation.ts'

/** Of a source, in characters. */
const MAX_TEXT = 5_000_000

/** What is indexed, and found again: a document, a message, a page. */
export interface Source {
  /** What kind of thing it is, in up to 40 characters, such as `document`. */
  sourceType: string
  /** Which one, in the caller's own terms. */
  sourceId: string
}

export interface IndexSourceOptions extends Source, SplitOptions {
  text: string
  /** With both of them, new chunks are embedded; without, they are found by their words only. */
  model?: EmbeddingModel
  space?: Space
  /** Null for nobody's. The user in scope unless said. */
  ownerId?: string | null
  /** `shared` unless said. A private source needs an owner. */
  visibility?: Visibility
  projectId?: string | null
  categoryId?: string | null
  metadata?: Record<string, unknown>
  /** When the source was written or said; now unless said. */
  occurredAt?: Date
  /** Counts the tokens of a chunk; a quarter of its characters, rounded up, unless said. */
  countTokens?: (text: string) => number
}

export interface IndexedSource {
  /** How many the source has now: those added and those kept. */
  chunks: number
  added: number
  kept: number
  removed: number
  /** How many vectors were made: of the chunks added, and of those that had none in the space. */
  embedded: number
  /** What the model was given, as its provider counts it, or else as `countTokens` does. */
  embeddedTokens: number
}

/**
 * Makes what is found of a source what its text is now. A chunk whose content stands in the text already
 * keeps its id and its vector; only the others are embedded and written. An empty text removes all.
 *
 * The model is called within the transaction, when only this source is locked and nothing is written.
 * Callers for one source take turns.
 *
 * @throws {ValidationError} also for a model that is not the space's, or a vector that does not fit it.
 * @throws {ForbiddenError} for a scope that may not write it; and what the model throws.
 */
export async function indexSource(
  tenant: Tenant,
  options: IndexSourceOptions,
): Promise<IndexedSource> {
  const { model, space } = checkOptions(options)
  const { countTokens = (text) => Math.ceil(text.length / 4) } = options
  const pieces = await splitText(options.text, options)
  const { db, organizationId } = tenant
  const attributes = {
    owner_id: options.ownerId === undefined ? (tenant.userId ?? null) : options.ownerId,
    project_id: options.projectId ?? null,
    category_id: options.categoryId ?? null,
    visibility: options.visibility ?? 'shared',
    metadata: options.metadata ?? {},
    occurred_at: options.occurredAt?.toISOString() ?? null,
  }
  if (attributes.visibility === 'private' && attributes.owner_id === null) {
    throw new ValidationError('ownerId', 'must be a user for a private source')
  }

  const stored = await lockSource(tenant, options, space)
  const { rows, gone } = match(pieces, stored)
  const missing = space && model ? rows.filter(({ embedded }) => !embedded) : []
  const vectors = await embedRows(missing, model, space)

  await deleteChunks(tenant, gone)
  if (rows.length > 0) {
    const records = rows.map(({ id, position, content, hash }) => ({
      ...{ id, position, content, hash: hash.toString('hex') },
      tokens: countTokens(content),
    }))
    // Kept rows are written only where something of them has changed.
    await rowsOf(
      db,
      sql`
        insert into ${chunks} as stored (organization_id, id, owner_id, project_id, category_id,
          source_type, source_id, position, visibility, content, content_hash, metadata, token_count,
          occurred_at)
        select ${organizationId}, new.id, ${attributes.owner_id}::uuid, ${attributes.project_id}::uuid,
          ${attributes.category_id}::uuid, ${options.sourceType}, ${options.sourceId}, new.position,
          ${attributes.visibility}::${visibilities}, new.content, decode(new.hash, 'hex'),
          ${JSON.stringify(attributes.metadata)}::text::jsonb, new.tokens,
          coalesce(${attributes.occurred_at}::timestamptz, now())
        from json_to_recordset(${JSON.stringify(records)}::text::json)
          as new (id uuid, position integer, content text, hash text, tokens integer)
        on conflict (organization_id, id) do update set
          position = excluded.position, owner_id = excluded.owner_id, visibility = excluded.visibility,
          project_id = excluded.project_id, category_id = excluded.category_id,
          metadata = excluded.metadata, updated_at = excluded.updated_at,
          occurred_at = case when ${attributes.occurred_at}::timestamptz is null
            then stored.occurred_at else excluded.occurred_at end
        where (stored.position, stored.owner_id, stored.visibility, stored.project_id,
            stored.category_id, stored.metadata)
          is distinct from (excluded.position, excluded.owner_id, excluded.visibility,
            excluded.project_id, excluded.category_id, excluded.metadata)
          or stored.occurred_at <> coalesce(${attributes.occurred_at}::timestamptz, stored.occurred_at)
        returning id`,
    )
    await writeEmbeddings(tenant, options, attributes, vectors, space)
  }
  const kept = rows.filter(({ isKept }) => isKept).length
  return {
    chunks: rows.length,
    added: rows.length - kept,
    kept,
    removed: gone.length,
    embedded: missing.length,
    embeddedTokens:
      vectors.tokens ?? missing.reduce((sum, { content }) => sum + countTokens(content), 0),
  }
}

function checkOptions({ model, space, ...options }: IndexSourceOptions) {
  checkSource(options)
  checkText('text', options.text, { min: 0, max: MAX_TEXT })
  if (options.ownerId != null) checkUuid('ownerId', options.ownerId)
  if (options.projectId != null) checkUuid('projectId', options.projectId)
  if (options.categoryId != null) checkUuid('categoryId', options.categoryId)
  if (options.visibility !== undefined) {
    checkOneOf('visibility', options.visibility, visibilities.enumValues)
  }
  if (options.metadata !== undefined) checkJson('metadata', options.metadata)
  if (options.occurredAt !== undefined) checkInstant('occurredAt', options.occurredAt)
  if (!model !== !space) {
    throw new ValidationError(model ? 'space' : 'model', 'must be given with the other one')
  }
  if (model && space && (model.provider !== space.provider || model.modelId !== space.model)) {
    throw new ValidationError(
      'model',
      `is ${model.provider}/${model.modelId}, and the space is for ${space.provider}/${space.model}`,
    )
  }
  return { model, space }
}

function checkSource({ sourceType, sourceId }: Source) {
  checkText('sourceType', sourceType, { max: 40 })
  checkText('sourceId', sourceId)
}

interface StoredChunk {
  id: string
  hash: string
  embedded: boolean
}

/** The chunks that a source has, in reading order, and nobody else's turn until the end of the transaction. */
async function lockSource(
  { db, organizationId }: Tenant,
  { sourceType, sourceId }: Source,
  space: Space | undefined,
): Promise<StoredChunk[]> {
  await rowsOf(
    db,
    sql`select pg_advisory_xact_lock(hashtextextended(
      concat_ws(' ', 'plinth.source', ${organizationId}::text, ${sourceType}::text, ${sourceId}::text), 0))`,
  )
  return rowsOf<StoredChunk>(
    db,
    sql`
      select c.id, encode(c.content_hash, 'hex') as hash, e.chunk_id is not null as embedded
      from ${chunks} c left join ${embeddings} e on e.organization_id = c.organization_id
        and e.chunk_id = c.id and e.space_id = ${space?.id ?? null}::uuid
      where c.organization_id = ${organizationId} and c.source_type = ${sourceType}
        and c.source_id = ${sourceId}
      order by c.position`,
  )
}

interface Row extends Piece {
  id: string
  position: number
  isKept: boolean
  embedded: boolean
}

/** Which stored chunk each piece is already, by content, and which stored ones stand in the text no more. */
function match(pieces: readonly Piece[], stored: readonly StoredChunk[]) {
  const left = new Map<string, StoredChunk[]>()
  for (const chunk of stored) left.set(chunk.hash, [...(left.get(chunk.hash) ?? []), chunk])
  const rows = pieces.map((piece, position): Row => {
    const chunk = left.get(piece.hash.toString('hex'))?.shift()
    return {
      ...piece,
      position,
      id: chunk?.id ?? uuidV7(),
      isKept: chunk !== undefined,
      embedded: chunk?.embedded ?? false,
    }
  })
  return { rows, gone: [...left.values()].flat().map(({ id }) => id) }
}

interface Vectors {
  of: { id: string; embedding: number[] }[]
  /** As the provider counts them. */
  tokens: number | undefined
}

async function embedRows(
  rows: readonly Row[],
  model: EmbeddingModel | undefined,
  space: Space | undefined,
): Promise<Vectors> {
  if (!model || !space || rows.length === 0) return { of: [], tokens: 0 }
  const { embeddings: made, tokens } = await embedTexts(
    model,
    rows.map(({ content }) => content),
  )
  const of = rows.map(({ id }, at) => {
    const embedding = made[at]
    checkVector(`embeddings[${at}]`, embedding, space.dimensions)
    return { id, embedding: [...embedding] }
  })
  return { of, tokens }
}

/** As pgvector reads it. Half precision holds four digits: more would only be bytes on the way. */
export const vectorText = (vector: readonly number[]): string =>
  `[${vector.map((value) => Number(value.toPrecision(6))).join(',')}]`

/** Writes new vectors, and keeps the copies of owner and visibility what the chunks' are, in every space. */
async function writeEmbeddings(
  { db, organizationId }: Tenant,
  { sourceType, sourceId }: Source,
  { owner_id, visibility }: { owner_id: string | null; visibility: Visibility },
  vectors: Vectors,
  space: Space | undefined,
): Promise<void> {
  await rowsOf(
    db,
    sql`
      update ${embeddings} as e set owner_id = ${owner_id}::uuid, visibility = ${visibility}::${visibilities}
      from ${chunks} c
      where e.organization_id = ${organizationId} and c.organization_id = ${organizationId}
        and c.source_type = ${sourceType} and c.source_id = ${sourceId} and e.chunk_id = c.id
        and (e.owner_id, e.visibility) is distinct from (${owner_id}::uuid, ${visibility}::${visibilities})`,
  )
  if (!space || vectors.of.length === 0) return
  const records = vectors.of.map(({ id, embedding }) => ({ id, v: vectorText(embedding) }))
  await rowsOf(
    db,
    sql`
      insert into ${embeddings} (organization_id, space_id, chunk_id, owner_id, visibility,
        source_type, embedding)
      select ${organizationId}, ${space.id}, new.id, ${owner_id}::uuid,
        ${visibility}::${visibilities}, ${sourceType}, new.v::public.halfvec
      from json_to_recordset(${JSON.stringify(records)}::text::json) as new (id uuid, v text)
      returning chunk_id`,
  )
}

async function deleteChunks({ db, organizationId }: Tenant, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return
  await rowsOf(
    db,
    sql`
      delete from ${chunks} where organization_id = ${organizationId}
        and id in (select json_array_elements_text(${JSON.stringify(ids)}::text::json)::uuid)`,
  )
}

/**
 * Removes what is found of a source: its chunks and their vectors, in every space. Idempotent.
 *
 * @returns how many chunks it had.
 * @throws {ValidationError}
 */
export async function removeSource(tenant: Tenant, source: Source): Promise<number> {
  checkSource(source)
  const { db, organizationId } = tenant
  const removed = await run(
    db
      .delete(chunks)
      .where(and(eq(chunks.organizationId, organizationId), isOf(source)))
      .returning({ id: chunks.id }),
  )
  return removed.length
}

const isOf = ({ sourceType, sourceId }: Source) =>
  and(eq(chunks.sourceType, sourceType), eq(chunks.sourceId, sourceId))

const { terms: _terms, contentHash: _contentHash, ...chunkColumns } = getColumns(chunks)

export interface SourceSummary extends Source {
  chunks: number
  tokens: number
  /** Of the chunk that changed last. */
  updatedAt: Date
}

export interface ListSourcesOptions {
  sourceType: string
  /** The sourceId of the last source of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the sources of a kind of which the member may see chunks, by sourceId. @throws {ValidationError} */
export async function listSources(
  { db, organizationId }: Tenant,
  { sourceType, after, limit = 50 }: ListSourcesOptions,
): Promise<SourceSummary[]> {
  checkText('sourceType', sourceType, { max: 40 })
  if (after !== undefined) checkText('after', after)
  checkLimit(limit, 500)
  return run(
    db
      .select({
        sourceType: chunks.sourceType,
        sourceId: chunks.sourceId,
        chunks: sql<number>`count(*)::integer`,
        tokens: sql<number>`sum(${chunks.tokenCount})::integer`,
        updatedAt: sql`max(${chunks.updatedAt})`.mapWith(chunks.updatedAt),
      })
      .from(chunks)
      .where(
        and(
          eq(chunks.organizationId, organizationId),
          eq(chunks.sourceType, sourceType),
          after === undefined ? undefined : gt(chunks.sourceId, after),
        ),
      )
      .groupBy(chunks.sourceType, chunks.sourceId)
      .orderBy(asc(chunks.sourceId))
      .limit(limit),
  )
}

export interface ListChunksOptions extends Source {
  /** The position of the last chunk of the previous page. */
  after?: number
  /** Up to 500. */
  limit?: number
}

/** Lists the chunks of a source that the member may see, in reading order. @throws {ValidationError} */
export async function listChunks(
  { db, organizationId }: Tenant,
  { after, limit = 50, ...source }: ListChunksOptions,
): Promise<Chunk[]> {
  checkSource(source)
  if (after !== undefined) checkInteger('after', after)
  checkLimit(limit, 500)
  return run(
    db
      .select(chunkColumns)
      .from(chunks)
      .where(
        and(
          eq(chunks.organizationId, organizationId),
          isOf(source),
          after === undefined ? undefined : gt(chunks.position, after),
        ),
      )
      .orderBy(asc(chunks.position))
      .limit(limit),
  )
}
