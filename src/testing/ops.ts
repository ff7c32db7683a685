import type { Database } from '../database.ts'
import { type Idempotent, idempotently } from '../queries/idempotency.ts'
import { acquireLock, type Lock } from '../queries/locks.ts'
import { type TakenTokens, takePublicTokens, takeTokens } from '../queries/rate-limits.ts'
import { uuidV7 } from '../schema/columns.ts'
import type { Tenancy } from '../tenant.ts'

/** A key that is completed, with its answer. */
export const makeIdempotencyKey = <T>(
  tenancy: Tenancy,
  { key = uuidV7(), answer }: { key?: string; answer?: T } = {},
): Promise<Idempotent<T | undefined>> =>
  idempotently(tenancy, { key, request: null }, async () => answer)

/** A lock of the platform, held for 30 seconds. */
export const makeLock = (db: Database, name: string = uuidV7()): Promise<Lock | undefined> =>
  acquireLock(db, { name })

/** A lock of an organization, held for 30 seconds. */
export const makeTenantLock = (
  tenancy: Tenancy,
  name: string = uuidV7(),
): Promise<Lock | undefined> => acquireLock(tenancy, { name })

const bucket = (key: string) => ({ key, capacity: 10, refillPerSecond: 1 })

/** A bucket of an organization, from which one of ten tokens was taken. */
export const makeRateLimit = (tenancy: Tenancy, key: string = uuidV7()): Promise<TakenTokens> =>
  takeTokens(tenancy, bucket(key))

/** A bucket of the public, from which one of ten tokens was taken. */
export const makePublicRateLimit = (db: Database, key: string = uuidV7()): Promise<TakenTokens> =>
  takePublicTokens(db, bucket(key))
