import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'

/** Where plinth's schema is, for the files of a project. */
export const plinth = resolve('src/schema')

/** A user's project, whose tables refer to plinth's. */
export async function makeProject(folders: string[]): Promise<string> {
  // Below the repository, so that its packages are found.
  await mkdir('coverage', { recursive: true })
  const folder = await mkdtemp(join(resolve('coverage'), 'project-'))
  folders.push(folder)
  await mkdir(join(folder, 'db'))
  await writeFile(
    join(folder, 'drizzle.config.ts'),
    `export default { dialect: 'postgresql', schema: './db/*.ts', out: './migrations' }\n`,
  )
  await declare(folder, "title: text('title').notNull()")
  return folder
}

/** Writes the schema file of a project. */
export const declare = (folder: string, columns: string, objects = '') =>
  writeFile(
    join(folder, 'db', 'schema.ts'),
    `import { sql } from 'drizzle-orm'
import { foreignKey, pgSchema, primaryKey, text, uuid } from 'drizzle-orm/pg-core'
import { organizations } from '${plinth}/identity.ts'
import { managedComment, managedGrant } from '${plinth}/managed.ts'
import { plinthApp, tenantPolicies, shared } from '${plinth}/policies.ts'

export const app = pgSchema('app')
export const posts = app.table.withRLS('posts', {
  organizationId: uuid('organization_id').notNull(),
  id: uuid('id').notNull(),
  ${columns},
}, (t) => [
  primaryKey({ name: 'posts_pkey', columns: [t.organizationId, t.id] }),
  foreignKey({ name: 'posts_organization_id_fkey', columns: [t.organizationId], foreignColumns: [organizations.id] }),
  ...tenantPolicies('posts', t.organizationId, shared()),
])
export const rights = [managedGrant('app.posts', sql\`grant select on \${posts} to plinth_app\`)]
export const note = managedComment(posts, 'What was written.')
${objects}
`,
  )
