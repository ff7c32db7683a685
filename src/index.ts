export { addressKey } from './addresses.ts'
export { type Connection, type ConnectOptions, connect, type Database } from './database.ts'
export { toPlinthError } from './driver-errors.ts'
export {
  type Embedded,
  type EmbeddingModel,
  embedTexts,
  type HashingModel,
  type HashingModelOptions,
  hashingModel,
} from './embedding.ts'
export * from './errors.ts'
export {
  type FingerprintSubject,
  fingerprintOf,
} from './fingerprint.ts'
export * from './guard-errors.ts'
export * from './key-ring.ts'
export * from './lifecycle/adopt.ts'
export * from './lifecycle/budgets.ts'
export * from './lifecycle/partitions.ts'
export * from './lifecycle/space-index.ts'
export * from './lifecycle/usage-daily.ts'
export type { MetadataCondition, MetadataFilter, MetadataValue } from './metadata.ts'
export { type MigrateOptions, migrate } from './migrations/apply.ts'
export type { MigrationProgress } from './migrations/turns.ts'
export * from './queries/index.ts'
export { REDACTED, type RedactOptions, redact, redactText, SECRET_NAMES } from './redaction.ts'
export { type Language, language } from './schema/search.ts'
export {
  asService,
  inTenant,
  readInTenant,
  type Scope,
  type ScopeRole,
  type Tenancy,
  type Tenant,
} from './tenant.ts'
export * from './webhooks.ts'
