import { type SQL, sql } from 'drizzle-orm'
import {
  bigint,
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
import { log, queued, tenantPolicies, visible } from './policies.ts'

export const search = pgSchema('search')

export const spaceDistance = search.enum('space_distance', ['cosine', 'l2', 'inner_product'])
export const spaceStatus = search.enum('space_status', ['building', 'active', 'retired'])
export const visibility = search.enum('visibility', ['private', 'shared'])
export const searchMode = search.enum('search_mode', ['hybrid', 'vector', 'text'])
export const embeddingJobStatus = search.enum('embedding_job_status', ['pending', 'dead'])
export const placementStatus = search.enum('placement_status', [
  'pending',
  'synced',
  'deleting',
  'dead',
])
/** The text search configurations that every supported Postgres has. */
export const language = search.enum('language', [
  'simple',
  'arabic',
  'armenian',
  'basque',
  'catalan',
  'danish',
  'dutch',
  'english',
  'finnish',
  'french',
  'german',
  'greek',
  'hindi',
  'hungarian',
  'indonesian',
  'irish',
  'italian',
  'lithuanian',
  'nepali',
  'norwegian',
  'portuguese',
  'romanian',
  'russian',
  'serbian',
  'spanish',
  'swedish',
  'tamil',
  'turkish',
  'yiddish',
])

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

    /** When it was last made the active one: the way back leads to the latest of the retired. Null after a way back from it. */
    activatedAt: instant('activated_at'),
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
    /** The spaces of which purpose it is embedded in. */
    purpose: text('purpose').notNull().default('text'),
    /** By whose rules its words are stemmed. */
    language: language('language').notNull().default('english'),
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
      .generatedAlwaysAs((): SQL => sql`search.terms(${chunks.language}, ${chunks.content})`),
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
    // The same, for a query that no chunk has the words of, and for the languages that there are.
    index('chunks_content_idx').using('gin', t.organizationId, t.content.op('public.gin_trgm_ops')),
    index('chunks_language_idx').on(t.organizationId, t.language),
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
    /** Of the content that it was made of; null if that is not known. */
    contentHash: bytea('content_hash'),
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

/**
 * A chunk that is to be embedded in a space. Written in the transaction that makes the chunk, deleted in
 * the one that writes its vector; `dead` when it has failed too often.
 */
export const embeddingJobs = search.table.withRLS(
  'embedding_jobs',
  {
    organizationId: organizationId(),
    spaceId: uuid('space_id').notNull(),
    chunkId: uuid('chunk_id').notNull(),

    status: embeddingJobStatus('status').notNull().default('pending'),
    attempts: integer('attempts').notNull().default(0),
    lastError: text('last_error'),

    dueAt: instant('due_at').notNull().defaultNow(),
    /** Who has claimed it: only with the same lease may the vector be written. */
    leaseId: uuid('lease_id'),
    leasedUntil: instant('leased_until'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({
      name: 'embedding_jobs_pkey',
      columns: [t.organizationId, t.spaceId, t.chunkId],
    }),
    foreignKey({
      name: 'embedding_jobs_space_id_fkey',
      columns: [t.spaceId],
      foreignColumns: [spaces.id],
    }).onDelete('cascade'),
    foreignKey({
      name: 'embedding_jobs_chunk_id_fkey',
      columns: [t.organizationId, t.chunkId],
      foreignColumns: [chunks.organizationId, chunks.id],
    }).onDelete('cascade'),
    index('embedding_jobs_chunk_id_idx').on(t.organizationId, t.chunkId),
    // The organizations that have work, and the work of one.
    index('embedding_jobs_due_idx').on(t.spaceId, t.status, t.organizationId, t.dueAt),
    check('embedding_jobs_attempts_check', sql`${t.attempts} >= 0`),
    ...tenantPolicies('embedding_jobs', t.organizationId, queued()),
  ],
)

/** A collection of vectors in another engine, which holds those of one space. */
export const namespaces = search.table(
  'namespaces',
  {
    id: id(),
    spaceId: uuid('space_id').notNull(),

    /** The engine, as its VectorStore names itself. */
    provider: text('provider').notNull(),
    name: text('name').notNull(),
    /** As of the last reconciliation. */
    vectors: bigint('vectors', { mode: 'number' }).notNull().default(0),
    /** Null if the engine does not say. */
    bytes: bigint('bytes', { mode: 'number' }),
    queries: bigint('queries', { mode: 'number' }).notNull().default(0),

    lastUsedAt: instant('last_used_at'),
    verifiedAt: instant('verified_at'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({ name: 'namespaces_pkey', columns: [t.id] }),
    uniqueIndex('namespaces_name_key').on(t.provider, t.name),
    foreignKey({
      name: 'namespaces_space_id_fkey',
      columns: [t.spaceId],
      foreignColumns: [spaces.id],
    }),
    index('namespaces_space_id_idx').on(t.spaceId),
  ],
)

/**
 * Where else a chunk's vector is, and whether it is the current one there. It outlives its chunk: what is
 * to be deleted in the other engine is known by it alone.
 */
export const placements = search.table.withRLS(
  'placements',
  {
    organizationId: organizationId(),
    namespaceId: uuid('namespace_id').notNull(),
    chunkId: uuid('chunk_id').notNull(),

    status: placementStatus('status').notNull().default('pending'),
    attempts: integer('attempts').notNull().default(0),
    /** Of the vector that the other engine has; null before it has one. */
    syncedHash: bytea('synced_hash'),
    lastError: text('last_error'),

    dueAt: instant('due_at').notNull().defaultNow(),
    leaseId: uuid('lease_id'),
    leasedUntil: instant('leased_until'),
    syncedAt: instant('synced_at'),
    ...timestamps(),
  },
  (t) => [
    primaryKey({
      name: 'placements_pkey',
      columns: [t.organizationId, t.namespaceId, t.chunkId],
    }),
    foreignKey({
      name: 'placements_organization_id_fkey',
      columns: [t.organizationId],
      foreignColumns: [organizations.id],
    }).onDelete('cascade'),
    foreignKey({
      name: 'placements_namespace_id_fkey',
      columns: [t.namespaceId],
      foreignColumns: [namespaces.id],
    }).onDelete('cascade'),
    index('placements_due_idx').on(t.namespaceId, t.status, t.organizationId, t.dueAt),
    check('placements_attempts_check', sql`${t.attempts} >= 0`),
    ...tenantPolicies('placements', t.organizationId, queued()),
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

export type Space = typeof spaces.$inferSelect
export type SpaceDistance = Space['distance']
export type Chunk = Omit<typeof chunks.$inferSelect, 'terms' | 'contentHash'>
export type Language = Chunk['language']
export type EmbeddingJob = typeof embeddingJobs.$inferSelect
export type Namespace = typeof namespaces.$inferSelect
export type Placement = typeof placements.$inferSelect
export type Visibility = Chunk['visibility']
export type SearchMode = (typeof searchMode.enumValues)[number]
export type SearchRecord = typeof searches.$inferSelect
