import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

// The package as a user gets it: packed, installed into an empty project, imported, and run as a command.

const PROGRAM = `
import { connect, createOrganization, inTenant, listMembers, migrate, upsertUser } from 'plinth'
import { organizations } from 'plinth/schema/identity'
import { getUser } from 'plinth/queries/identity'
import { createTestDatabase } from 'plinth/testing'
import { lancedbStore, syncNamespace } from 'plinth/stores'
import { meteredModel } from 'plinth/ai-sdk'
import { PlinthVectorStore } from 'plinth/langchain'
const db = await connect('memory://')
await migrate(db)
const { id } = await upsertUser(db, { provider: 'x', subject: 'ada', email: 'ada@example.com' })
const { id: organizationId } = await createOrganization(db, { slug: 'acme', name: 'Acme', ownerId: id })
const members = await inTenant(db, { organizationId, userId: id }, (tenant) => listMembers(tenant))
// None of them needs its optional peer before it is used.
const missing = await lancedbStore({ uri: 'vectors' }).describe('any').catch((error) => error.name)
if (missing !== 'MissingPackageError') throw new Error(missing)
for (const entry of [syncNamespace, meteredModel, PlinthVectorStore]) if (!entry) throw new Error('entry')
console.log(members.length, (await getUser(db, id)).email, (await db.select().from(organizations)).length)
await Promise.all([db.close(), createTestDatabase().then((test) => test.close())])
`

const run = (command: string, args: string[], cwd: string) =>
  execFileSync(command, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  }).trim()

const { peerDependencies: peers } = JSON.parse(readFileSync('package.json', 'utf8'))
const folder = mkdtempSync(join(tmpdir(), 'plinth-package-'))
try {
  const [{ filename }] = JSON.parse(
    run('npm', ['pack', '--json', '--pack-destination', folder], '.'),
  )
  writeFileSync(
    join(folder, 'package.json'),
    '{ "name": "empty", "private": true, "type": "module" }',
  )
  const embedded = ['drizzle-orm', '@electric-sql/pglite', '@electric-sql/pglite-pgvector']
  const packages = [`./${filename}`, ...embedded.map((name) => `${name}@${peers[name]}`)]
  run('npm', ['install', '--no-audit', '--no-fund', ...packages], folder)

  writeFileSync(join(folder, 'program.js'), PROGRAM)
  const printed = run('node', ['program.js'], folder)
  if (printed !== '1 ada@example.com 1') throw new Error(`the program printed: ${printed}`)

  const report = JSON.parse(run('npx', ['plinth', 'demo', '--json'], folder))
  const [answer] = report.answers
  if (!answer?.matches.length || report.otherOrganization.matches !== 0) {
    throw new Error(`plinth demo answered: ${JSON.stringify(report)}`)
  }
  process.stdout.write(`${filename}: installed, imported and run\n`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
