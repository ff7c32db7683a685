import { type SQL, sql } from 'drizzle-orm'
import {
  check,
  customType,
  foreignKey,
  index,
  integer,
  jsonb,
  pgSchema,
  primaryKey,
  real,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import { bytea, id, instant, organizationId, timestamps, tsvector } from './columns.ts'
import { organizations, users } from './identity.ts'
import {
  managedCall,
  managedComment,
  managedConstraint,
  managedExecute,
  managedExtension,
  managedFunction,
  managedGrant,
  managedPartitioning,
  managedStorage,
} from './managed.ts'
import { log, tenantPolicies, visible } from './policies.ts'

export const search = pgSchema('search')

export const spaceDistance = search.enum('space_distance', ['cosine', 'l2', 'inner_product'])
export const spaceStatus = search.enum('space_status', ['building', 'active', 'retired'])
export const visibility = search.enum('visibility', ['private', 'shared'])
export const searchMode = search.enum('search_mode', ['hybrid', 'vector', 'text'])

/** Half-precision vector of any dimension; each partition of `embeddings` fixes its own. */
const halfvec = customType<{ data: number[]; driverData: string }>({
  dataType: () => 'public.halfvec',
  toDriver: (value) => JSON.stringify(value),
  fromDriver: (value) => JSON.parse(value),
})

/** What an HNSW index takes of pgvector's halfvec. */
export const MAX_DIMENSIONS = 4_000

/** What makes two vectors comparable: the model that made them, and how. One is active per purpose. */
export const spaces = search.table(
  'spaces',
  {
    id: id(),

    purpose: text('purpose').notNull().default('text'),
    status: spaceStatus('status').notNull().default('building'),
    provider: text('provider').notNull(),
    model: text('model').notNull(),
    /** Raised by whoever changes how texts are prepared for the same model. */
    revision: text('revision').notNull().default('1'),
    distance: spaceDistance('distance').notNull().default('cosine'),
    dimensions: integer('dimensions').notNull(),
    /** Up to so many rows of a tenant are scanned exactly; beyond, the HNSW index is used. */
    exactRows: integer('exact_rows').notNull().default(4_000),

    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'spaces_pkey', columns: [t.id] }),
    uniqueIndex('spaces_model_key').on(
      t.purpose,
      t.provider,
      t.model,
      t.dimensions,
      t.distance,
      t.revision,
    ),
    uniqueIndex('spaces_active_key').on(t.purpose).where(sql`${t.status} = 'active'`),
    check('spaces_dimensions_check', sql`${t.dimensions} between 1 and 4000`),
    check('spaces_exact_rows_check', sql`${t.exactRows} >= 0`),
  ],
)

/** A passage of a source, as it is found. A private one is its owner's, and the admins'. */
export const chunks = search.table.withRLS(
  'chunks',
  {
    organizationId: organizationId(),
    id: id(),
    ownerId: uuid('owner_id'),
    /** Ids of the caller's own groupings; filters only. */
    projectId: uuid('project_id'),
    categoryId: uuid('category_id'),

    sourceType: text('source_type').notNull(),
    sourceId: text('source_id').notNull(),
    /** From 0, in reading order. */
    position: integer('position').notNull(),
    visibility: visibility('visibility').notNull().default('shared'),
    content: text('content').notNull(),
    /** SHA-256 of the content. */
    contentHash: bytea('content_hash').notNull(),
    metadata: jsonb('metadata').$type<Record<string, unknown>>().notNull().default({}),
    tokenCount: integer('token_count').notNull(),

    /** When the source was written or said, for filters by time. */
    occurredAt: instant('occurred_at').notNull().defaultNow(),
    ...timestamps(),
    terms: tsvector('terms')
      .notNull()
      .generatedAlwaysAs((): SQL => sql`to_tsvector('english', ${chunks.content})`),
  },
  (t) => [
    primaryKey({ name: 'chunks_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'chunks_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    foreignKey({
      name: 'chunks_owner_id_fkey',
      columns: [t.ownerId],
      foreignColumns: [users.id],
    }),
    index('chunks_owner_id_idx').on(t.ownerId),
    // matching_chunks. With the organization in it (btree_gin), a common word of all is no burden on one.
    index('chunks_terms_idx').using('gin', t.organizationId, t.terms),
    check('chunks_source_type_check', sql`${t.sourceType} <> '' and length(${t.sourceType}) <= 40`),
    check('chunks_owner_id_check', sql`${t.visibility} = 'shared' or ${t.ownerId} is not null`),
    check('chunks_position_check', sql`${t.position} >= 0`),
    check('chunks_token_count_check', sql`${t.tokenCount} >= 0`),
    check('chunks_content_hash_check', sql`length(${t.contentHash}) = 32`),
    ...tenantPolicies('chunks', t.organizationId, visible(t.ownerId, t.visibility)),
  ],
)

/**
 * The vector of a chunk in a space. Owner, visibility and source type are the chunk's: a policy can
 * read no other table, and a vector tells much of its text.
 */
export const embeddings = search.table.withRLS(
  'embeddings',
  {
    organizationId: organizationId(),
    spaceId: uuid('space_id').notNull(),
    chunkId: uuid('chunk_id').notNull(),
    ownerId: uuid('owner_id'),

    visibility: visibility('visibility').notNull(),
    sourceType: text('source_type').notNull(),
    embedding: halfvec('embedding').notNull(),
  },
  (t) => [
    primaryKey({
      name: 'embeddings_pkey',
      columns: [t.organizationId, t.spaceId, t.chunkId],
    }),
    foreignKey({
      name: 'embeddings_space_id_fkey',
      columns: [t.spaceId],
      foreignColumns: [spaces.id],
    }),
    foreignKey({
      name: 'embeddings_chunk_id_fkey',
      columns: [t.organizationId, t.chunkId],
      foreignColumns: [chunks.organizationId, chunks.id],
    }).onDelete('cascade'),
    index('embeddings_chunk_id_idx').on(t.organizationId, t.chunkId),
    ...tenantPolicies('embeddings', t.organizationId, visible(t.ownerId, t.visibility)),
  ],
)

/** What was asked, and how well it was answered. Appended by a search on request; never changed. */
export const searches = search.table.withRLS(
  'searches',
  {
    organizationId: organizationId(),
    id: id(),
    userId: uuid('user_id'),
    spaceId: uuid('space_id'),

    mode: searchMode('mode').notNull(),
    query: text('query'),
    filters: jsonb('filters').$type<Record<string, unknown>>().notNull().default({}),
    resultCount: integer('result_count').notNull(),
    /** Of the best match; null without one, or without vectors. */
    topSimilarity: real('top_similarity'),
    latencyMs: integer('latency_ms').notNull(),

    occurredAt: instant('occurred_at').notNull().defaultNow(),
  },
  (t) => [
    // Also listSearches, read backwards for newest first.
    primaryKey({ name: 'searches_pkey', columns: [t.organizationId, t.occurredAt, t.id] }),
    foreignKey({
      name: 'searches_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    ...tenantPolicies('searches', t.organizationId, log(t.userId)),
  ],
)

/**
 * Makes the partition of a space: its vectors' fixed dimension, and their HNSW index.
 *
 * SECURITY DEFINER, because only the owner of `embeddings` may add to it. Repeating it changes nothing.
 */
const createPartition = managedFunction(
  'search.create_partition(uuid)',
  sql`
create or replace function search.create_partition(space uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '5s' as $$
declare
  child text := 'embeddings_' || replace(space::text, '-', '');
  dims integer;
  ops text;
begin
  select s.dimensions, case s.distance
      when 'cosine' then 'halfvec_cosine_ops'
      when 'l2' then 'halfvec_l2_ops'
      else 'halfvec_ip_ops' end
    into strict dims, ops from ${spaces} s where s.id = space;
  if to_regclass(format('partitions.%I', child)) is not null then
    return;
  end if;
  execute format('create table partitions.%I (like ${embeddings} including all excluding indexes)', child);
  -- The parent takes any dimension; a typed column could not be attached to it.
  execute format('alter table partitions.%I add constraint %I check (public.vector_dims(embedding) = %s)',
    child, child || '_dims', dims);
  -- Attached and not made as a part, so that those who search in other spaces go on meanwhile.
  execute format('alter table ${embeddings} attach partition partitions.%I for values in (%L)',
    child, space);
  execute format('create index %I on partitions.%I using hnsw ((embedding::public.halfvec(%s)) public.%I)',
    child || '_hnsw', child, dims, ops);
end $$`,
)

/** In the order in which they are created. */
export const searchObjects = [
  managedExtension('vector'),
  managedExtension('btree_gin'),
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
  createPartition,
  ...managedExecute('search.create_partition(uuid)', 'plinth_platform'),
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
  managedGrant('search.searches', sql`grant select, insert on ${searches} to plinth_app`),
  managedCall(
    'partitions of search.searches',
    sql`select partitions.create_months('search', 'searches', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(spaces, 'What makes two vectors comparable: the model that made them, and how.'),
  managedComment(chunks, 'A passage of a source, as it is found.'),
  managedComment(embeddings, 'The vector of a chunk in a space; one partition a space.'),
  managedComment(searches, 'What was asked, and how well it was answered. Append-only.'),
]

export type Space = typeof spaces.$inferSelect
export type SpaceDistance = Space['distance']
export type Chunk = Omit<typeof chunks.$inferSelect, 'terms' | 'contentHash'>
export type Visibility = Chunk['visibility']
export type SearchMode = (typeof searchMode.enumValues)[number]
export type SearchRecord = typeof searches.$inferSelect
