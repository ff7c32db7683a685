import { sql } from 'drizzle-orm'
import { type Database, rowsOf } from '../../src/database.ts'
import { LOCKS, type Lock, waitsOf } from '../../src/migrations/advice/locks.ts'

/** What a statement was seen to do to a table that was there before. */
export interface Measured {
  /** The strongest lock that keeps reads or writes waiting. */
  lock?: Lock
  isRewritten: boolean
  isScanned: boolean
}

class Undone extends Error {}

/** Runs a statement in a transaction that is undone, and looks at what it did to the tables of a schema. */
export async function measure(
  db: Database,
  schema: string,
  statement: string,
): Promise<Record<string, Measured>> {
  const found: Record<string, Measured> = {}
  const tables = sql`select c.oid, c.relname as name, c.relfilenode::int as file,
      coalesce(pg_stat_get_xact_numscans(c.oid), 0)::int as scans
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relkind in ('r', 'p', 'm', 'v')`
  interface Row {
    oid: number
    name: string
    file: number
    scans: number
  }
  const work = db.transaction(async (tx) => {
    const before = await rowsOf<Row>(tx, tables)
    await tx.execute(sql.raw(statement))
    const held = await rowsOf<{ relation: number; mode: string }>(
      tx,
      sql`select relation, mode from pg_locks where pid = pg_backend_pid() and locktype = 'relation'`,
    )
    const after = new Map((await rowsOf<Row>(tx, tables)).map((row) => [row.oid, row]))
    for (const { oid, name, file, scans } of before) {
      const modes = held
        .filter(({ relation }) => relation === oid)
        .map(
          ({ mode }) =>
            mode
              .replace(/Lock$/, '')
              .replace(/(?<=[a-z])(?=[A-Z])/g, ' ')
              .toUpperCase() as Lock,
        )
      const [lock] = modes.sort((a, b) => LOCKS.indexOf(b) - LOCKS.indexOf(a))
      const now = after.get(oid)
      found[name] = {
        ...(lock && waitsOf(lock) ? { lock } : {}),
        isRewritten: now !== undefined && now.file !== file,
        isScanned: now !== undefined && now.scans > scans,
      }
    }
    throw new Undone()
  })
  await work.catch((error) => {
    if (!(error instanceof Undone)) throw error
  })
  return found
}
