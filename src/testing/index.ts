export * from './activity.ts'
export * from './ai.ts'
export * from './costs.ts'
export {
  type CreateTestDatabaseOptions,
  createTestDatabase,
  rollback,
  type TestDatabase,
} from './database.ts'
export * from './factories.ts'
export * from './ops.ts'
export * from './search.ts'
