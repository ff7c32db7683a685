import { defineConfig } from 'drizzle-kit'
import { openEmbedded } from './src/database.ts'

const url = process.env.DATABASE_URL
// Only these open a database; `generate` must not make one.
const connects = ['migrate', 'push', 'pull', 'studio'].includes(process.argv[2] ?? '')

const shared = {
  dialect: 'postgresql' as const,
  schema: ['./src/schema/index.ts', './src/schema/objects.ts'],
  out: './drizzle',
}

export default url
  ? defineConfig({ ...shared, dbCredentials: { url } })
  : connects
    ? defineConfig({ ...shared, driver: 'pglite', client: await openEmbedded() })
    : defineConfig(shared)
