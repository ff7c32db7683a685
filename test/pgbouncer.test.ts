import { sql } from 'drizzle-orm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type Database, rowsOf } from '../src/database.ts'
import { ConnectionError } from '../src/errors.ts'
import { inTenant, readInTenant } from '../src/tenant.ts'
import { makeScope } from '../src/testing/factories.ts'
import { url } from './support/database.ts'
import { makePgbouncer, type Pgbouncer } from './support/pgbouncer.ts'

const CALLERS = 200

describe.skipIf(!url)('behind pgbouncer in transaction mode', () => {
  let pooler: Pgbouncer
  let db: Connection

  beforeAll(async () => {
    pooler = await makePgbouncer(url ?? '', { poolSize: 4 })
    db = await connect(pooler.url, { prepare: false, maxConnections: CALLERS })
  })
  afterAll(async () => {
    await db.close()
    await pooler.close()
  })

  const whereabouts = (on: Database) =>
    rowsOf<{ pid: number; role: string; organization: string; timeout: string }>(
      on,
      sql`select pg_backend_pid() as pid, current_user as role, current_setting('statement_timeout') as timeout,
        current_setting('plinth.organization_id', true) as organization`,
    )

  test('many clients share few sessions, each in its own scope, with the timeouts of its own', async () => {
    const scopes = await Promise.all(Array.from({ length: 4 }, () => makeScope(db)))
    const answers = await Promise.all(
      Array.from({ length: CALLERS }, (_, at) => {
        const scope = scopes[at % scopes.length] ?? { organizationId: '', userId: '' }
        return at % 2 === 0
          ? inTenant(db, scope, (tenant) => whereabouts(tenant.db))
          : readInTenant(db, scope, (tenant) => [whereabouts(tenant.db)]).then(([rows]) => rows)
      }),
    )
    const rows = answers.flat()
    expect(rows.map(({ organization }) => organization)).toEqual(
      rows.map((_, at) => scopes[at % scopes.length]?.organizationId),
    )
    expect(new Set(rows.map(({ role, timeout }) => `${role} ${timeout}`))).toEqual(
      new Set(['plinth_app 30s']),
    )
    expect(new Set(rows.map(({ pid }) => pid)).size).toBeLessThanOrEqual(4)
    // Nothing of a scope is left on a session that others get.
    const after = await Promise.all(Array.from({ length: 20 }, () => whereabouts(db)))
    for (const { role, organization } of after.flat()) {
      expect(role).not.toBe('plinth_app')
      expect(organization ?? '').toBe('')
    }
  })

  test('takes no startup parameters, which are sent unless prepare is false', async () => {
    await expect(
      connect(pooler.url).then((prepared) => whereabouts(prepared).finally(() => prepared.close())),
    ).rejects.toThrow(ConnectionError)
  })
})
