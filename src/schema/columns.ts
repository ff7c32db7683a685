import { sql } from 'drizzle-orm'
import { customType, timestamp, uuid } from 'drizzle-orm/pg-core'

// The only state of the schema: it keeps the ids of one millisecond in order.
let latest = { millisecond: 0, count: 0 }

/**
 * A version 7 UUID (RFC 9562), greater than every earlier one of this process.
 *
 * Made here and not by the database: Postgres has `uuidv7()` only from 18 on, and an id known before
 * its INSERT can be in the child rows of the same statement.
 */
export function uuidV7(): string {
  const now = Date.now()
  const { millisecond, count } = latest
  // 48 bits of milliseconds, then 12 that count the ids of one; the clock may stand still, or go back.
  if (now > millisecond) latest = { millisecond: now, count: 0 }
  else if (count < 0xfff) latest = { millisecond, count: count + 1 }
  else latest = { millisecond: millisecond + 1, count: 0 }
  const time = latest.millisecond.toString(16).padStart(12, '0')
  const counted = latest.count.toString(16).padStart(3, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7${counted}-${crypto.randomUUID().slice(19)}`
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
