import { sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import { NotFoundError } from '../errors.ts'
import { chunks, embeddings } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { checkUuid } from '../validation.ts'
import { type SearchOptions, type SearchResult, search } from './search.ts'
import { checkSource, type Source } from './source-attributes.ts'

export interface SimilarToOptions
  extends Source,
    Omit<SearchOptions, 'query' | 'embedding' | 'space' | 'mode' | 'near' | 'snippets' | 'except'> {
  space: NonNullable<SearchOptions['space']>
}

/**
 * Finds the chunks of other sources that are most like a source as a whole: nearest to the mean of its
 * vectors. Best first.
 *
 * @throws {NotFoundError} for a source without a vector in the space that the member may see.
 * @throws {ValidationError}
 */
export async function similarTo(
  tenant: Tenant,
  { sourceType, sourceId, space, ...options }: SimilarToOptions,
): Promise<SearchResult> {
  const source = { sourceType, sourceId }
  checkSource(source)
  checkUuid('space.id', space?.id)
  const [row] = await rowsOf<{ mean: string | null }>(
    tenant.db,
    sql`select public.avg(e.embedding)::text as mean from ${chunks} c
      join ${embeddings} e on e.organization_id = c.organization_id and e.chunk_id = c.id
        and e.space_id = ${space.id}
      where c.organization_id = ${tenant.organizationId} and c.source_type = ${sourceType}
        and c.source_id = ${sourceId}`,
  )
  if (!row?.mean) throw new NotFoundError('source', `${sourceType} ${sourceId}`)
  const embedding: number[] = JSON.parse(row.mean)
  return search(tenant, { ...options, space, embedding, except: source })
}
