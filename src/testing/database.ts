import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/pglite'
import { type Database, openPglite } from '../database.ts'
import { migrate } from '../migrations/apply.ts'

/** A migrated database in memory, which a test may do anything to. */
export interface TestDatabase extends AsyncDisposable {
  readonly db: Database
  /** Runs `work` in a transaction that is then undone. The fastest way to a clean state. */
  rollback<T>(work: (tx: Database) => Promise<T>): Promise<T>
  /** Empties every table, and drops the partitions of spaces. For tests that commit. */
  reset(): Promise<void>
  /** Twice is once. */
  close(): Promise<void>
}

export interface CreateTestDatabaseOptions {
  /** What to make beside plinth's own tables, such as the project's own migrations. Done once a process. */
  prepare?: (db: Database) => Promise<void>
}

// One snapshot a process and preparation: to migrate takes seconds, to load what came of it does not.
const snapshots = new Map<unknown, Promise<Blob | File>>()

/** Makes a database of its own for a test, or for a file of tests. It has to be closed. */
export async function createTestDatabase({
  prepare,
}: CreateTestDatabaseOptions = {}): Promise<TestDatabase> {
  let snapshot = snapshots.get(prepare)
  if (!snapshot) {
    snapshot = takeSnapshot(prepare)
    snapshots.set(prepare, snapshot)
    snapshot.catch(() => snapshots.delete(prepare))
  }
  const client = await openPglite({ loadDataDir: await snapshot })
  const db: Database = drizzle({ client })
  const close = async () => {
    if (!client.closed) await client.close()
  }
  return {
    db,
    rollback: (work) => rollback(db, work),
    reset: async () => {
      await db.execute(RESET)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

async function takeSnapshot(prepare?: (db: Database) => Promise<void>): Promise<Blob | File> {
  const client = await openPglite()
  try {
    const db = drizzle({ client })
    await migrate(db)
    await prepare?.(db)
    return await client.dumpDataDir('none')
  } finally {
    await client.close()
  }
}

const undo = Symbol('undo')

/** Runs `work` in a transaction of any database, and undoes it. */
export async function rollback<T>(db: Database, work: (tx: Database) => Promise<T>): Promise<T> {
  let result: { value: T } | undefined
  await db
    .transaction(async (tx) => {
      result = { value: await work(tx) }
      throw undo
    })
    .catch((error) => {
      if (error !== undo) throw error
    })
  return (result as { value: T }).value
}

/**
 * DELETE, and only where there are rows: TRUNCATE makes new files for every table and index. Without
 * triggers, and so without foreign keys, in any order.
 */
const RESET = sql`
do $$
declare
  found record;
  has_rows boolean;
begin
  set local session_replication_role = replica;
  for found in
    select c.oid::regclass as child from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'search.embeddings'::regclass
  loop
    execute format('drop table %s', found.child);
  end loop;
  for found in
    select c.oid::regclass as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition
      and n.nspname not in ('pg_catalog', 'information_schema', 'drizzle')
  loop
    execute format('select exists (select from %s)', found.name) into has_rows;
    if has_rows then
      execute format('delete from %s', found.name);
    end if;
  end loop;
end $$`
