import { createHash } from 'node:crypto'
import { type Database, only, run } from '../database.ts'
import { vectorText } from '../embedding.ts'
import { search } from '../queries/search.ts'
import { type CreateSpaceOptions, createSpace } from '../queries/spaces.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  chunks,
  embeddingJobs,
  embeddings,
  namespaces,
  placements,
  type Space,
} from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { unitVector } from './factories.ts'

/** A space of its own purpose, and so active. */
export const makeSpace = (db: Database, space: Partial<CreateSpaceOptions> = {}) =>
  createSpace(db, {
    provider: 'test',
    model: 'unit-vectors',
    dimensions: 8,
    purpose: uuidV7(),
    ...space,
  })

type NewChunk = Partial<Omit<typeof chunks.$inferInsert, 'organizationId' | 'contentHash'>>

/** A chunk without a vector. */
export async function makeChunk({ db, organizationId, userId }: Tenant, chunk: NewChunk = {}) {
  const { content = 'anything', ...given } = chunk
  return only(
    await run(
      db
        .insert(chunks)
        .values({
          organizationId,
          ownerId: userId,
          sourceType: 'note',
          sourceId: uuidV7(),
          position: 0,
          content,
          contentHash: createHash('sha256').update(content).digest(),
          tokenCount: Math.ceil(content.length / 4),
          ...given,
        })
        .returning(),
    ),
  )
}

export interface MakeEmbeddingOptions {
  space: Space
  chunk?: NewChunk
  /** A unit vector of seed 1 unless said. */
  embedding?: number[]
}

/** A chunk, with its vector in a space. */
export async function makeEmbedding(
  tenant: Tenant,
  { space, chunk, embedding = unitVector(1, space.dimensions) }: MakeEmbeddingOptions,
) {
  const { id: chunkId, ownerId, visibility, sourceType } = await makeChunk(tenant, chunk)
  return only(
    await run(
      tenant.db
        .insert(embeddings)
        .values({
          organizationId: tenant.organizationId,
          spaceId: space.id,
          chunkId,
          ownerId,
          visibility,
          sourceType,
          embedding: JSON.parse(vectorText(embedding)),
        })
        .returning(),
    ),
  )
}

/** A chunk that is to be embedded in a space. */
export async function makeEmbeddingJob(
  tenant: Tenant,
  { space, chunk }: { space: Pick<Space, 'id'>; chunk?: NewChunk },
) {
  const { id: chunkId } = await makeChunk(tenant, chunk)
  const { db, organizationId } = tenant
  return only(
    await run(
      db.insert(embeddingJobs).values({ organizationId, spaceId: space.id, chunkId }).returning(),
    ),
  )
}

/** A collection of vectors in another engine. */
export const makeNamespace = async (
  db: Database,
  namespace: { spaceId: string } & Partial<typeof namespaces.$inferInsert>,
) =>
  only(
    await run(
      db
        .insert(namespaces)
        .values({ provider: 'test', name: uuidV7(), ...namespace })
        .returning(),
    ),
  )

/** Where else the vector of a chunk is. */
export async function makePlacement(
  tenant: Tenant,
  { namespaceId, chunkId }: { namespaceId: string; chunkId?: string },
) {
  const { db, organizationId } = tenant
  const chunk = chunkId ?? (await makeChunk(tenant)).id
  return only(
    await run(
      db.insert(placements).values({ organizationId, namespaceId, chunkId: chunk }).returning(),
    ),
  )
}

/** A recorded search, of text. */
export const makeSearch = (tenant: Tenant, query = 'anything') =>
  search(tenant, { query, record: true })
