import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import type { Database } from '../../src/database.ts'
import { createNamespace } from '../../src/queries/namespaces.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import type { Space } from '../../src/schema/search.ts'
import { lancedbStore } from '../../src/stores/lancedb.ts'
import { pgvectorStore } from '../../src/stores/pgvector.ts'
import type { VectorStore } from '../../src/stores/vector-store.ts'
import { makeScratch } from './scratch.ts'

const folders: string[] = []
const stores: VectorStore[] = []

export async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'plinth-lancedb-'))
  folders.push(folder)
  return folder
}

/** A real engine of each kind, until the file's tests have ended. */
export const STORES: Record<string, () => Promise<VectorStore>> = {
  lancedb: async () => keep(lancedbStore({ uri: await makeFolder(), timeoutMs: 60_000 })),
  /** A second database: of the server where there is one, and else a PGlite. */
  pgvector: async () => keep(pgvectorStore({ db: (await makeScratch()).db })),
  'pgvector by its index': async () =>
    keep(pgvectorStore({ db: (await makeScratch()).db, exactRows: 0 })),
}

function keep(store: VectorStore): VectorStore {
  stores.push(store)
  return store
}

/** A name that no other test has. */
export const freshName = () => `t_${uuidV7().replaceAll('-', '')}`

/** A namespace for a space in a store. */
export const makeNamespaceIn = (
  db: Database,
  { space, store }: { space: Pick<Space, 'id'>; store: Pick<VectorStore, 'name'> },
) => createNamespace(db, { spaceId: space.id, provider: store.name, name: freshName() })

afterAll(async () => {
  for (const store of stores) await store.close()
  for (const folder of folders) await rm(folder, { recursive: true, force: true })
})
