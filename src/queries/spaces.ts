import { setTimeout as pause } from 'node:timers/promises'
import { and, asc, eq, gt, is, sql } from 'drizzle-orm'
import { PgAsyncTransaction } from 'drizzle-orm/pg-core'
import { type Database, mapErrors, only, rowsOf, run } from '../database.ts'
import { LockError, NotFoundError } from '../errors.ts'
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
  /**
   * `later` for a space that is filled first: to build an HNSW index over what is there takes a fraction
   * of what it takes to add to one; see `buildSpaceIndex`. `now` unless said.
   */
  index?: 'now' | 'later'
  /** Up to how many vectors a slice is scanned exactly, from 0 to 10,000,000; 4,000 unless said. */
  exactRows?: number
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
    index = 'now',
    exactRows,
  }: CreateSpaceOptions,
): Promise<Space> {
  checkText('provider', provider, { max: 200 })
  checkText('model', model, { max: 200 })
  checkInteger('dimensions', dimensions, { min: 1, max: MAX_DIMENSIONS })
  checkOneOf('distance', distance, spaceDistance.enumValues)
  checkText('revision', revision, { max: 100 })
  checkText('purpose', purpose, { max: 100 })
  checkOneOf('index', index, ['now', 'later'])
  if (exactRows !== undefined) checkExactRows(exactRows)
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
      const isFirst = active.length === 0
      const space = only(
        await run(
          tx
            .insert(spaces)
            .values({
              ...identity,
              exactRows,
              ...(isFirst && { status: 'active', activatedAt: sql`clock_timestamp()` }),
            })
            .returning(),
        ),
      )
      await rowsOf(tx, sql`select search.create_partition(${space.id}, ${index === 'now'})`)
      return space
    }),
  )
}

const checkExactRows = (value: unknown) => checkInteger('exactRows', value, { max: 10_000_000 })

/**
 * Changes up to how many vectors of a slice a search scans exactly. Returns the space.
 *
 * @throws {NotFoundError} for an unknown id. @throws {ValidationError}
 */
export async function updateSpace(
  db: Database,
  id: string,
  { exactRows }: Required<Pick<CreateSpaceOptions, 'exactRows'>>,
): Promise<Space> {
  checkUuid('id', id)
  checkExactRows(exactRows)
  const [space] = await run(
    db.update(spaces).set({ exactRows }).where(eq(spaces.id, id)).returning(),
  )
  if (!space) throw new NotFoundError('space', id)
  return space
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

export interface SpaceCoverage {
  /** Chunks that belong into the space: those of its purpose, but of archived organizations. */
  chunks: number
  /** Of which the vector is there, and of what the chunk says now. */
  embedded: number
  missing: number
  /** Jobs that will be done, and those that have failed too often. */
  pending: number
  dead: number
}

export interface SpaceCoverageOptions {
  /** Of this one alone. */
  organizationId?: string
}

/**
 * Counts how much of what belongs into a space is in it. Reads all chunks of its purpose.
 *
 * @throws {NotFoundError} for an unknown space. @throws {ValidationError}
 */
export async function spaceCoverage(
  db: Database,
  id: string,
  { organizationId }: SpaceCoverageOptions = {},
): Promise<SpaceCoverage> {
  checkUuid('id', id)
  if (organizationId !== undefined) checkUuid('organizationId', organizationId)
  const row = only(
    await rowsOf<Record<keyof SpaceCoverage, string>>(
      db,
      sql`select total as chunks, embedded, missing, pending, dead
        from search.space_coverage(${id}, ${organizationId ?? null}::uuid)`,
    ),
  )
  return {
    chunks: Number(row.chunks),
    embedded: Number(row.embedded),
    missing: Number(row.missing),
    pending: Number(row.pending),
    dead: Number(row.dead),
  }
}

export interface ActivateSpaceOptions {
  /** Also with chunks that have no vector in it, which are then found by their words only. */
  force?: boolean
}

/**
 * Makes a space the active one of its purpose, and retires the one before it, in one statement. Returns it.
 * Idempotent.
 *
 * @throws {SpaceError} `not_covered` while a chunk has no current vector in it, unless forced.
 * @throws {NotFoundError} @throws {ValidationError}
 */
export async function activateSpace(
  db: Database,
  id: string,
  { force = false }: ActivateSpaceOptions = {},
): Promise<Space> {
  checkUuid('id', id)
  await rowsOf(db, sql`select search.activate_space(${id}, ${force === true})`)
  return getSpace(db, id)
}

/**
 * Makes the space that was active before the active one of a purpose again, in one statement, and returns
 * it. A second call leads further back.
 *
 * What was indexed since has no vector in it: `fillSpace` makes them, before or after.
 *
 * @throws {SpaceError} `no_predecessor` if none was active before. @throws {ValidationError}
 */
export async function rollBackSpace(db: Database, purpose = 'text'): Promise<Space> {
  checkText('purpose', purpose, { max: 100 })
  const { id } = only(
    await rowsOf<{ id: string }>(db, sql`select search.roll_back_space(${purpose}) as id`),
  )
  return getSpace(db, id)
}

/**
 * Ends that a space is filled, and deletes its jobs. Of the active one too: its purpose has none then, until
 * another is activated. Idempotent.
 *
 * @throws {NotFoundError} @throws {ValidationError}
 */
export async function retireSpace(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  await rowsOf(db, sql`select search.retire_space(${id})`)
}

const DROP_ATTEMPTS = 40
const DROP_PAUSE_MS = 500

/**
 * Drops a space with all its vectors, by dropping its partition: at once, however many they are.
 *
 * That takes a lock which those who search wait for. It is waited for half a second at a time, and tried
 * again for up to 40 seconds; within a transaction not again.
 *
 * @throws {SpaceError} `active` for the active one; `in_use` while a namespace of another engine is of it.
 * @throws {LockError} if it was in use all the time; call it again. @throws {NotFoundError}
 * @throws {ValidationError}
 */
export async function dropSpace(db: Database, id: string): Promise<void> {
  checkUuid('id', id)
  // What the transaction has locked before would be held all the while, and no deadlock be seen.
  const attempts = is(db, PgAsyncTransaction) ? 1 : DROP_ATTEMPTS
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await mapErrors(() =>
        db.transaction(async (tx) => {
          await rowsOf(tx, sql`select search.drop_space(${id})`)
        }),
      )
    } catch (error) {
      if (!(error instanceof LockError) || attempt === attempts) throw error
      await pause(DROP_PAUSE_MS)
    }
  }
}
