import { and, asc, eq, gt, sql } from 'drizzle-orm'
import { type Database, mapErrors, only, rowsOf, run } from '../database.ts'
import { NotFoundError } from '../errors.ts'
import {
  MAX_DIMENSIONS,
  type Space,
  type SpaceDistance,
  spaceDistance,
  spaces,
} from '../schema/search.ts'
import { checkInteger, checkLimit, checkOneOf, checkText, checkUuid } from '../validation.ts'

export interface CreateSpaceOptions {
  /** As the embedding model names its provider and itself. */
  provider: string
  model: string
  /** From 1 to 4,000. */
  dimensions: number
  distance?: SpaceDistance
  /** To be raised when texts are prepared in another way for the same model. */
  revision?: string
  /** What is searched in it, such as `text` or `image`. */
  purpose?: string
}

/**
 * Creates a space with its partition and its HNSW index, or returns the one that is there already.
 *
 * The first space of a purpose is active at once; a later one is `building`.
 *
 * @throws {ValidationError}
 */
export async function createSpace(
  db: Database,
  {
    provider,
    model,
    dimensions,
    distance = 'cosine',
    revision = '1',
    purpose = 'text',
  }: CreateSpaceOptions,
): Promise<Space> {
  checkText('provider', provider, { max: 200 })
  checkText('model', model, { max: 200 })
  checkInteger('dimensions', dimensions, { min: 1, max: MAX_DIMENSIONS })
  checkOneOf('distance', distance, spaceDistance.enumValues)
  checkText('revision', revision, { max: 100 })
  checkText('purpose', purpose, { max: 100 })
  const identity = { provider, model, dimensions, distance, revision, purpose }

  return mapErrors(() =>
    db.transaction(async (tx) => {
      // Of two first spaces at once, one becomes active.
      await rowsOf(tx, sql`select pg_advisory_xact_lock(hashtextextended('plinth.spaces', 0))`)
      const isThis = and(
        ...Object.entries(identity).map(([key, value]) =>
          eq(spaces[key as keyof typeof identity], value),
        ),
      )
      const [existing] = await run(tx.select().from(spaces).where(isThis))
      if (existing) return existing
      const isActive = and(eq(spaces.purpose, purpose), eq(spaces.status, 'active'))
      const active = await run(tx.select({ id: spaces.id }).from(spaces).where(isActive))
      const status = active.length === 0 ? 'active' : 'building'
      const space = only(
        await run(
          tx
            .insert(spaces)
            .values({ ...identity, status })
            .returning(),
        ),
      )
      await rowsOf(tx, sql`select search.create_partition(${space.id})`)
      return space
    }),
  )
}

/** Returns a space. @throws {NotFoundError} for an unknown id. @throws {ValidationError} */
export async function getSpace(db: Database, id: string): Promise<Space> {
  checkUuid('id', id)
  const [space] = await run(db.select().from(spaces).where(eq(spaces.id, id)))
  if (!space) throw new NotFoundError('space', id)
  return space
}

/** Finds the active space of a purpose, `text` unless said. @throws {ValidationError} */
export async function findActiveSpace(db: Database, purpose = 'text'): Promise<Space | undefined> {
  checkText('purpose', purpose, { max: 100 })
  const [space] = await run(
    db
      .select()
      .from(spaces)
      .where(and(eq(spaces.purpose, purpose), eq(spaces.status, 'active'))),
  )
  return space
}

export interface ListSpacesOptions {
  purpose?: string
  /** The id of the last space of the previous page. */
  after?: string
  /** Up to 500. */
  limit?: number
}

/** Lists the spaces, oldest first. @throws {ValidationError} */
export async function listSpaces(
  db: Database,
  { purpose, after, limit = 50 }: ListSpacesOptions = {},
): Promise<Space[]> {
  if (purpose !== undefined) checkText('purpose', purpose, { max: 100 })
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, 500)
  return run(
    db
      .select()
      .from(spaces)
      .where(
        and(
          purpose ? eq(spaces.purpose, purpose) : undefined,
          after ? gt(spaces.id, after) : undefined,
        ),
      )
      .orderBy(asc(spaces.id))
      .limit(limit),
  )
}
