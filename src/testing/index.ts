export {
  type CreateTestDatabaseOptions,
  createTestDatabase,
  rollback,
  type TestDatabase,
} from './database.ts'
export * from './factories.ts'
