import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/setup.ts'],
    setupFiles: ['test/support/random.ts'],
    // To open a PGlite and migrate it takes seconds, more while the other core is busy.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // The default of a second is not long for a transaction beside the rest.
    expect: { poll: { timeout: 15_000 } },
    maxWorkers: 2,
  },
  resolve: {
    alias: {
      'plinth/migrations': new URL('./src/migrations/index.ts', import.meta.url).pathname,
      'plinth/testing': new URL('./src/testing/index.ts', import.meta.url).pathname,
      'plinth/stores': new URL('./src/stores/index.ts', import.meta.url).pathname,
      'plinth/ai-sdk': new URL('./src/integrations/ai-sdk.ts', import.meta.url).pathname,
      'plinth/langchain': new URL('./src/integrations/langchain.ts', import.meta.url).pathname,
      plinth: new URL('./src/index.ts', import.meta.url).pathname,
    },
  },
})
