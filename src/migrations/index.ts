export { type Advice, type AdviceOptions, adviseOn, type Effect } from './advice/advice.ts'
export { type AuditOptions, audit, type Finding } from './advice/audit.ts'
export { harden } from './advice/harden.ts'
export { type MigrateOptions, migrate } from './apply.ts'
export { type Baseline, type BaselineOptions, baseline } from './baseline.ts'
export type { Difference } from './catalog/compare.ts'
export { type Verification, type VerifyOptions, verify } from './catalog/verify.ts'
export { type CreateMigrationOptions, createMigration } from './create.ts'
export { type DataMigration, defineDataMigration } from './data.ts'
export { declaredBuild } from './declared.ts'
export { type MigrationSource, plinthSource } from './folder.ts'
export { type GeneratedMigration, type GenerateOptions, generate } from './generate/generate.ts'
export { OpenQuestionsError } from './generate/renames.ts'
export { loadConfig, type ProjectConfig, sourcesOf } from './project.ts'
export {
  migrateTo,
  type PlannedRevert,
  planRevert,
  planTo,
  type RevertOptions,
  revert,
} from './revert.ts'
export { type PlannedMigration, planMigrate } from './script.ts'
export { type MigrationState, type MigrationStatus, migrationStatus } from './status.ts'
export type { MigrationProgress } from './turns.ts'
