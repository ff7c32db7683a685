export { type LancedbStoreOptions, lancedbStore } from './lancedb.ts'
export { type PgvectorStoreOptions, pgvectorStore } from './pgvector.ts'
export * from './reconcile.ts'
export { type PlacedSearchResult, type SearchPlacedOptions, searchPlaced } from './search.ts'
export {
  type SyncedNamespace,
  type SyncNamespaceOptions,
  type SyncProgress,
  syncNamespace,
} from './sync.ts'
export type * from './vector-store.ts'
