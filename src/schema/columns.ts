import { sql } from 'drizzle-orm'
import { customType, timestamp, uuid } from 'drizzle-orm/pg-core'

// The only state of the package: it keeps the ids of one millisecond in order.
let latest = 0n

/**
 * A version 7 UUID (RFC 9562), greater than every earlier one of this process.
 *
 * Made here and not by the database: Postgres has `uuidv7()` only from 18 on, and an id known before
 * its INSERT can be in the child rows of the same statement.
 */
export function uuidV7(): string {
  // 48 bits of milliseconds, then 12 that count the ids of one millisecond.
  const tick = BigInt(Date.now()) << 12n
  latest = tick > latest ? tick : latest + 1n
  const time = latest.toString(16).padStart(15, '0')
  return `${time.slice(0, 8)}-${time.slice(8, 12)}-7${time.slice(12)}-${crypto.randomUUID().slice(19)}`
}

/** The surrogate key. Its order is the order of creation, so the primary key also serves the pages. */
export const id = () => uuid('id').notNull().$defaultFn(uuidV7)

/** The tenant, first in the primary key, in every unique key and in every foreign key between tenant tables. */
export const organizationId = () => uuid('organization_id').notNull()

/**
 * A point in time.
 *
 * Millisecond precision, because that is all a JavaScript `Date` holds: a row's own timestamp,
 * read and sent back, must still find the row.
 */
export const instant = <Name extends string>(name: Name) =>
  timestamp(name, { withTimezone: true, precision: 3 })

/** When a row was written and last changed, by the clock of the database. */
export const timestamps = () => ({
  createdAt: instant('created_at').notNull().defaultNow(),
  updatedAt: instant('updated_at')
    .notNull()
    .defaultNow()
    .$onUpdate(() => sql`now()`),
})

/** Bytes, as a Buffer. */
export const bytea = customType<{ data: Buffer; driverData: Uint8Array }>({
  dataType: () => 'bytea',
  fromDriver: (value) => Buffer.from(value),
})

export const tsvector = customType<{ data: string }>({ dataType: () => 'tsvector' })
