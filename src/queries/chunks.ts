import { and, asc, eq, getColumns, gt, sql } from 'drizzle-orm'
import { run } from '../database.ts'
import { type Chunk, chunks } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { checkInteger, checkLimit, checkText } from '../validation.ts'
import { checkSource, type Source } from './source-attributes.ts'

const MAX_PAGE = 500

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
  checkLimit(limit, MAX_PAGE)
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
  checkLimit(limit, MAX_PAGE)
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
