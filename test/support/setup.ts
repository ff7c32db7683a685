import postgres from 'postgres'
import type { TestProject } from 'vitest/node'
import { connect } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** As a superuser, to look at catalogs and to end other sessions; undefined on PGlite. */
    adminUrl: string | undefined
    /** As the login of a service, in the way that docs/production.md says. */
    url: string | undefined
  }
}

const LOGIN = 'plinth_test_login'
const PASSWORD = 'plinth-test'

/** Where a server is given: a database of this run's own, migrated, and a login that owns nothing. */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | void> {
  const server = process.env.DATABASE_URL
  if (!server) return

  const database = `plinth_test_${process.pid}`
  const sql = postgres(server, { max: 1, onnotice: () => {} })
  await sql.unsafe(`create database ${database}`)
  const admin = new URL(server)
  admin.pathname = `/${database}`
  const db = await connect(admin.href)
  await migrate(db)
  // Made here, the months that tests record calls in are there for all: a test that made one would lock organizations
  // until its end, and wait for another one that has written some and waits for it.
  await db.execute(
    `select partitions.create_months('costs', 'usage_events',
      least('2026-01-01', now() - interval '40 days'), greatest('2026-12-01', now()))`,
  )
  await db.close()

  const { server_version_num: version = '0' } = (await sql`show server_version_num`)[0] ?? {}
  const inherits = Number(version) >= 160_000
  await sql.unsafe(`
    do $$ begin create role ${LOGIN} login; exception when duplicate_object then null; end $$;
    alter role ${LOGIN} ${inherits ? 'noinherit' : 'inherit'} password '${PASSWORD}';
    grant plinth_app to ${LOGIN};
    grant plinth_platform to ${LOGIN} ${inherits ? 'with inherit true' : ''}`)
  const login = new URL(admin)
  login.username = LOGIN
  login.password = PASSWORD
  project.provide('adminUrl', admin.href)
  project.provide('url', login.href)

  return async () => {
    await sql.unsafe(`drop database ${database} with (force)`)
    await sql.end()
  }
}
