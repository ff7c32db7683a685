import { sql } from 'drizzle-orm'
import { only, rowsOf } from '../database.ts'
import { ForbiddenError } from '../errors.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  chunks,
  embeddings,
  language as languages,
  type Space,
  visibility as visibilities,
} from '../schema/search.ts'
import { type Piece, splitText } from '../splitting.ts'
import type { Tenant } from '../tenant.ts'
import { checkInteger } from '../validation.ts'
import {
  type Attributes,
  attributesOf,
  checkOptions,
  checkSource,
  type IndexSourceOptions,
  MAX_TEXT,
  type Source,
} from './source-attributes.ts'
import {
  deleteForeignEmbeddings,
  embedRows,
  enqueueSource,
  writeEmbeddings,
} from './source-vectors.ts'

export type { IndexSourceOptions, Source } from './source-attributes.ts'

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
 * For every other space of its purpose that is filled or searched, jobs for what it lacks there are added in
 * the same transaction; see `runEmbeddingJobs`.
 *
 * Of a source that is there already, absent options keep what they are. The model is called within the
 * transaction, when only this source is locked and nothing is written. Callers for one source take turns.
 *
 * @throws {ValidationError} also for a model that is not the space's, or a vector that does not fit it.
 * @throws {ForbiddenError} for a scope that may not write the source, or all of it.
 * @throws {ConstraintError} `chunks_source_key` if another member has a private source of the same id.
 */
export async function indexSource(
  tenant: Tenant,
  options: IndexSourceOptions,
): Promise<IndexedSource> {
  const { model, space } = checkOptions(options)
  const { countTokens = (text) => Math.ceil(text.length / 4) } = options
  const pieces = (await splitText(options.text, options)).map((piece) => {
    const tokens = countTokens(piece.content)
    checkInteger('countTokens', tokens, { max: MAX_TEXT })
    return { ...piece, tokens }
  })

  await takeTurn(tenant, options)
  const stored = await readChunks(tenant, options, space)
  const attributes = attributesOf(tenant, options, stored[0])
  const { rows, gone } = match(pieces, stored)
  const missing = space && model ? rows.filter(({ embedded }) => !embedded) : []
  const vectors = await embedRows(missing, model, space, options.signal)

  await deleteChunks(tenant, options, gone)
  await writeChunks(tenant, options, attributes, rows)
  await writeEmbeddings(tenant, options, attributes, vectors, space)
  if (stored.some(({ purpose }) => purpose !== attributes.purpose)) {
    await deleteForeignEmbeddings(tenant, options)
  }
  if (rows.length > 0) await enqueueSource(tenant, options)
  const kept = rows.filter(({ isKept }) => isKept).length
  return {
    chunks: rows.length,
    added: rows.length - kept,
    kept,
    removed: gone.length,
    embedded: missing.length,
    embeddedTokens: vectors.tokens ?? missing.reduce((sum, { tokens }) => sum + tokens, 0),
  }
}

interface StoredChunk extends Attributes {
  id: string
  hash: string
  embedded: boolean
}

/**
 * Keeps others from the source until the end of the transaction, which may wait for a model for as long
 * as that takes.
 */
const takeTurn = ({ db, organizationId }: Tenant, { sourceType, sourceId }: Source) =>
  rowsOf(
    db,
    sql`
      select pg_advisory_xact_lock(hashtextextended(concat_ws(' ', 'plinth.source',
          ${organizationId}::text, ${sourceType}::text, ${sourceId}::text), 0)),
        set_config('idle_in_transaction_session_timeout', '0', true)`,
  )

/** The chunks that a source has, as far as the scope sees them, in reading order. */
const readChunks = (
  { db, organizationId }: Tenant,
  { sourceType, sourceId }: Source,
  space: Space | undefined,
): Promise<StoredChunk[]> =>
  rowsOf<StoredChunk>(
    db,
    sql`
      select c.id, encode(c.content_hash, 'hex') as hash,
        e.chunk_id is not null and coalesce(e.content_hash = c.content_hash, true) as embedded,
        c.owner_id as "ownerId", c.project_id as "projectId", c.category_id as "categoryId",
        c.visibility, c.purpose, c.language, c.metadata, c.occurred_at::text as "occurredAt"
      from ${chunks} c left join ${embeddings} e on e.organization_id = c.organization_id
        and e.chunk_id = c.id and e.space_id = ${space?.id ?? null}::uuid
      where c.organization_id = ${organizationId} and c.source_type = ${sourceType}
        and c.source_id = ${sourceId}
      order by c.position`,
  )

interface Passage extends Piece {
  tokens: number
}

interface Row extends Passage {
  id: string
  position: number
  isKept: boolean
  embedded: boolean
}

/** Which stored chunk each piece is already, by content, and which stored ones stand in the text no more. */
function match(pieces: readonly Passage[], stored: readonly StoredChunk[]) {
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

/** Writes the chunks; those that are kept only where something of them has changed. */
async function writeChunks(
  { db, organizationId }: Tenant,
  { sourceType, sourceId }: Source,
  attributes: Attributes,
  rows: readonly Row[],
): Promise<void> {
  if (rows.length === 0) return
  const { ownerId, projectId, categoryId, visibility, purpose, language } = attributes
  const { metadata, occurredAt } = attributes
  const records = rows.map(({ id, position, content, hash, tokens }) => ({
    ...{ id, position, content, tokens },
    hash: hash.toString('hex'),
  }))
  await rowsOf(
    db,
    sql`
      insert into ${chunks} as stored (organization_id, id, owner_id, project_id, category_id,
        source_type, source_id, position, visibility, purpose, language, content, content_hash,
        metadata, token_count, occurred_at)
      select ${organizationId}, new.id, ${ownerId}::uuid, ${projectId}::uuid, ${categoryId}::uuid,
        ${sourceType}, ${sourceId}, new.position, ${visibility}::${visibilities},
        ${purpose}, ${language}::${languages}, new.content,
        decode(new.hash, 'hex'), ${JSON.stringify(metadata)}::text::jsonb, new.tokens,
        coalesce(${occurredAt}::timestamptz, now())
      from json_to_recordset(${JSON.stringify(records)}::text::json)
        as new (id uuid, position integer, content text, hash text, tokens integer)
      on conflict (organization_id, id) do update set
        position = excluded.position, owner_id = excluded.owner_id, visibility = excluded.visibility,
        project_id = excluded.project_id, category_id = excluded.category_id,
        purpose = excluded.purpose, language = excluded.language,
        metadata = excluded.metadata, occurred_at = excluded.occurred_at,
        updated_at = excluded.updated_at
      where (stored.position, stored.owner_id, stored.visibility, stored.project_id,
          stored.category_id, stored.purpose, stored.language, stored.metadata, stored.occurred_at)
        is distinct from (excluded.position, excluded.owner_id, excluded.visibility,
          excluded.project_id, excluded.category_id, excluded.purpose, excluded.language,
          excluded.metadata, excluded.occurred_at)
      returning id`,
  )
}

async function deleteChunks(
  { db, organizationId }: Tenant,
  source: Source,
  ids: readonly string[],
): Promise<void> {
  if (ids.length === 0) return
  const deleted = await rowsOf(
    db,
    sql`
      delete from ${chunks} where organization_id = ${organizationId}
        and id in (select json_array_elements_text(${JSON.stringify(ids)}::text::json)::uuid)
      returning id`,
  )
  if (deleted.length < ids.length) throw notAllowed(source)
}

/** Row level security lets no row be deleted, and says nothing. */
const notAllowed = ({ sourceType, sourceId }: Source) =>
  new ForbiddenError(
    'permission',
    `${sourceType} ${sourceId} has chunks that the scope may read, but not remove`,
  )

/**
 * Removes what is found of a source: its chunks and their vectors, in every space. Idempotent.
 *
 * @returns how many chunks it had.
 * @throws {ForbiddenError} for a scope that may not remove all that it can see of it.
 * @throws {ValidationError}
 */
export async function removeSource(tenant: Tenant, source: Source): Promise<number> {
  checkSource(source)
  await takeTurn(tenant, source)
  const { db, organizationId } = tenant
  const isThis = sql`organization_id = ${organizationId} and source_type = ${source.sourceType}
    and source_id = ${source.sourceId}`
  const { seen, gone } = only(
    await rowsOf<{ seen: number; gone: number }>(
      db,
      sql`
        with gone as (delete from ${chunks} where ${isThis} returning id)
        select (select count(*)::integer from ${chunks} where ${isThis}) as seen,
          (select count(*)::integer from gone) as gone`,
    ),
  )
  if (gone < seen) throw notAllowed(source)
  return gone
}
