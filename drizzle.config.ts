import { defineConfig } from 'drizzle-kit'
import { openEmbedded } from './src/database.ts'

const url = process.env.DATABASE_URL
// Only these of drizzle-kit open a database; `generate` must not make one, and plinth opens its own.
const [, program = '', command = ''] = process.argv
const connects =
  program.includes('drizzle-kit') && ['migrate', 'push', 'pull', 'studio'].includes(command)

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
