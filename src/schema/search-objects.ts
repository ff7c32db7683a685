import { sql } from 'drizzle-orm'
import {
  managedCall,
  managedComment,
  managedConstraint,
  managedExtension,
  managedFunction,
  managedGrant,
  managedPartitioning,
  managedStorage,
} from './managed.ts'
import {
  chunks,
  embeddingJobs,
  embeddings,
  namespaces,
  placements,
  search,
  searches,
  spaces,
} from './search.ts'

/**
 * The words of a text, stemmed. Declared immutable, as Postgres's own is for a configuration by name; they
 * are those of pg_catalog alone.
 */
const terms = managedFunction(
  'search.terms(search.language, text)',
  sql`
create or replace function search.terms(language search.language, content text)
returns tsvector language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return to_tsvector(language::text::regconfig, content);
end $$`,
)

/** In the order in which they are created. */
export const searchObjects = [
  managedExtension('vector'),
  managedExtension('btree_gin'),
  managedExtension('pg_trgm'),
  terms,
  managedPartitioning(embeddings, 'list', embeddings.spaceId),
  managedPartitioning(searches, 'range', searches.occurredAt),
  // One chunk a place, whoever asks: a source is nobody's twice. Also what indexSource and listChunks read
  // by. Deferrable, so that a statement may shift many.
  managedConstraint(
    chunks,
    'chunks_source_key',
    sql`unique (organization_id, source_type, source_id, position) deferrable initially immediate`,
  ),
  // In the row and uncompressed: an exact scan of TOASTed vectors takes 3.5 times as long.
  managedStorage(embeddings, embeddings.embedding, 'plain'),
  managedGrant('search', sql`grant usage on schema ${search} to plinth_app, plinth_platform`),
  managedGrant('search.spaces', sql`grant select on ${spaces} to plinth_app`),
  managedGrant(
    'search.spaces to plinth_platform',
    sql`grant select, insert, update, delete on ${spaces} to plinth_platform`,
  ),
  managedGrant(
    'search.chunks',
    sql`grant select, insert, update, delete on ${chunks} to plinth_app`,
  ),
  managedGrant(
    'search.embeddings',
    sql`grant select, insert, update, delete on ${embeddings} to plinth_app`,
  ),
  managedGrant(
    'search.embedding_jobs',
    sql`grant select, insert, update, delete on ${embeddingJobs} to plinth_app`,
  ),
  managedGrant('search.namespaces', sql`grant select on ${namespaces} to plinth_app`),
  managedGrant(
    'search.namespaces to plinth_platform',
    sql`grant select, insert, update, delete on ${namespaces} to plinth_platform`,
  ),
  managedGrant(
    'search.placements',
    sql`grant select, insert, update, delete on ${placements} to plinth_app`,
  ),
  managedGrant('search.searches', sql`grant select, insert on ${searches} to plinth_app`),
  managedCall(
    'partitions of search.searches',
    sql`select partitions.create_months('search', 'searches', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(spaces, 'What makes two vectors comparable: the model that made them, and how.'),
  managedComment(chunks, 'A passage of a source, as it is found.'),
  managedComment(embeddings, 'The vector of a chunk in a space; one partition a space.'),
  managedComment(embeddingJobs, 'A chunk that is to be embedded in a space.'),
  managedComment(
    namespaces,
    'A collection of vectors in another engine, which holds those of one space.',
  ),
  managedComment(
    placements,
    'Where else the vector of a chunk is, and whether it is the current one there.',
  ),
  managedComment(searches, 'What was asked, and how well it was answered. Append-only.'),
]
