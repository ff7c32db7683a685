import { and, asc, eq, gt, sql } from 'drizzle-orm'
import { type Database, only, rowsOf, run } from '../database.ts'
import { ConstraintError, NotFoundError, ValidationError } from '../errors.ts'
import { type Namespace, namespaces } from '../schema/search.ts'
import { checkInteger, checkLimit, checkText, checkUuid } from '../validation.ts'

export interface CreateNamespaceOptions {
  /** Whose vectors it holds. */
  spaceId: string
  /** The engine, as its VectorStore names itself. */
  provider: string
  /** Up to 50 of a to z, 0 to 9, _ and -, from a letter or digit: what every engine takes for a name. */
  name: string
}

/**
 * Creates a namespace, or returns the one that is there already. Nothing is made in the other engine
 * until it is synchronized.
 *
 * @throws {ConstraintError} for a name that holds another space's vectors already, or an unknown space.
 * @throws {ValidationError}
 */
export async function createNamespace(
  db: Database,
  { spaceId, provider, name }: CreateNamespaceOptions,
): Promise<Namespace> {
  checkUuid('spaceId', spaceId)
  checkText('provider', provider, { max: 100 })
  checkName(name)
  const [created] = await run(
    db
      .insert(namespaces)
      .values({ spaceId, provider, name })
      .onConflictDoNothing({ target: [namespaces.provider, namespaces.name] })
      .returning(),
  )
  if (created) return created
  const existing = only(
    await run(
      db
        .select()
        .from(namespaces)
        .where(and(eq(namespaces.provider, provider), eq(namespaces.name, name))),
    ),
  )
  if (existing.spaceId !== spaceId.toLowerCase()) {
    throw new ConstraintError('unique', 'namespaces_name_key', 'namespaces')
  }
  return existing
}

function checkName(name: string) {
  checkText('name', name, { max: 50 })
  if (!/^[a-z0-9][a-z0-9_-]*$/.test(name)) {
    throw new ValidationError('name', 'must be of a to z, 0 to 9, _ and -, from a letter or digit')
  }
}

/** Returns a namespace. @throws {NotFoundError} for an unknown id. @throws {ValidationError} */
export async function getNamespace(db: Database, id: string): Promise<Namespace> {
  checkUuid('id', id)
  const [namespace] = await run(db.select().from(namespaces).where(eq(namespaces.id, id)))
  if (!namespace) throw new NotFoundError('namespace', id)
  return namespace
}

export interface ListNamespacesOptions {
  spaceId?: string
  /** The id of the last namespace of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the namespaces, oldest first. @throws {ValidationError} */
export async function listNamespaces(
  db: Database,
  { spaceId, after, limit = 50 }: ListNamespacesOptions = {},
): Promise<Namespace[]> {
  if (spaceId !== undefined) checkUuid('spaceId', spaceId)
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, 500)
  return run(
    db
      .select()
      .from(namespaces)
      .where(
        and(
          spaceId !== undefined ? eq(namespaces.spaceId, spaceId) : undefined,
          after !== undefined ? gt(namespaces.id, after) : undefined,
        ),
      )
      .orderBy(asc(namespaces.id))
      .limit(limit),
  )
}

/**
 * Removes a namespace and its placements. What the other engine has of it stays there: have the store drop
 * it first, with `dropNamespace`. Idempotent.
 *
 * @throws {ValidationError}
 */
export async function removeNamespace(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  await run(db.delete(namespaces).where(eq(namespaces.id, id)))
}

/** How far a namespace is from the vectors here, as this database knows it. Counts of all organizations. */
export interface NamespaceDrift {
  /** Vectors in the space. */
  local: number
  /** Of which the other engine has been given one, be it the current one or not. */
  placed: number
  /** Still to be sent, still to be deleted there, and given up. */
  pending: number
  deleting: number
  dead: number
  /** Vectors without a placement, and those that have changed since they were sent. */
  missing: number
  stale: number
}

/** Counts what of a namespace is not as it should be. Reads every vector of the space. @throws {ValidationError} */
export async function namespaceDrift(db: Database, id: string): Promise<NamespaceDrift> {
  await getNamespace(db, id)
  const row = only(
    await rowsOf<Record<keyof NamespaceDrift, string>>(
      db,
      sql`select * from search.namespace_drift(${id})`,
    ),
  )
  const { local, placed, pending, deleting, dead, missing, stale } = row
  return {
    local: Number(local),
    placed: Number(placed),
    pending: Number(pending),
    deleting: Number(deleting),
    dead: Number(dead),
    missing: Number(missing),
    stale: Number(stale),
  }
}

/** A page of the organizations that have vectors for a namespace or placements in it, by id: up to 500. */
export async function listOffloadingOrganizations(
  db: Database,
  { id, after }: { id: string; after?: string | undefined },
): Promise<string[]> {
  checkUuid('id', id)
  if (after !== undefined) checkUuid('after', after)
  const rows = await rowsOf<{ id: string }>(
    db,
    sql`select o as id from search.offloading_organizations(${id}, ${after ?? null}::uuid, 500) o`,
  )
  return rows.map((row) => row.id)
}

/** Where a vector is: whose, and of which chunk. */
export interface PlacedKey {
  organizationId: string
  chunkId: string
}

/** Picks placements that are in order, at random: up to 10,000. @throws {ValidationError} */
export async function samplePlacements(
  db: Database,
  { id, limit }: { id: string; limit: number },
): Promise<PlacedKey[]> {
  checkUuid('id', id)
  checkLimit(limit, 10_000)
  return rowsOf<PlacedKey>(
    db,
    sql`select organization_id as "organizationId", chunk_id as "chunkId"
      from search.sample_placements(${id}, ${limit})`,
  )
}

/** Says which vectors of another engine are in no placement here, and whether their organization is at work. */
export async function listUnplaced(
  db: Database,
  { id, keys }: { id: string; keys: readonly { organizationId: string; id: string }[] },
): Promise<(PlacedKey & { isKnown: boolean })[]> {
  checkUuid('id', id)
  return rowsOf<PlacedKey & { isKnown: boolean }>(
    db,
    sql`select organization_id as "organizationId", chunk_id as "chunkId", is_known as "isKnown"
      from search.unplaced_vectors(${id}, ${JSON.stringify(keys)}::text::json)`,
  )
}

/** Records what a reconciliation has found in the other engine, and when. @throws {ValidationError} */
export async function recordVerification(
  db: Database,
  { id, vectors, bytes }: Pick<Namespace, 'id' | 'vectors' | 'bytes'>,
): Promise<void> {
  checkUuid('id', id)
  checkInteger('vectors', vectors)
  if (bytes !== null) checkInteger('bytes', bytes)
  await run(
    db
      .update(namespaces)
      .set({ vectors, bytes, verifiedAt: sql`now()` })
      .where(eq(namespaces.id, id)),
  )
}
