import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'drizzle-orm'
import { describe, expect, onTestFinished, test as plain } from 'vitest'
import { connect, rowsOf, run } from '../src/database.ts'
import {
  ConnectionError,
  ConstraintError,
  DatabaseInUseError,
  LockError,
  MigrationError,
  MissingPartitionError,
  TimeoutError,
  TransactionError,
  ValidationError,
} from '../src/errors.ts'
import { migrate } from '../src/migrations/apply.ts'
import { recordActivity } from '../src/queries/activity.ts'
import { listOrganizations } from '../src/queries/identity.ts'
import { inTenant } from '../src/tenant.ts'
import { makeOrganization, makeScope } from '../src/testing/factories.ts'
import { owner, root, test, url } from './support/database.ts'

async function folder(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), 'plinth-'))
  onTestFinished(() => rm(made, { recursive: true, force: true }))
  return made
}

describe('the embedded database', () => {
  plain('keeps what it is given, from one opening to the next', async () => {
    const data = join(await folder(), 'deep', 'data')
    const first = await connect(data)
    await migrate(first)
    const { ownerId, id } = await makeOrganization(first)
    await Promise.all([first.close(), first.close()])
    await first.close()

    const second = await connect(data)
    expect(await migrate(second)).toEqual([])
    expect(await listOrganizations(second, { userId: ownerId })).toMatchObject([
      { organizationId: id },
    ])
    await second.close()
  })

  plain('is refused while it is open, and opens after a process that died', async () => {
    const data = await folder()
    const db = await connect(data)

    await expect(connect(data)).rejects.toBeInstanceOf(DatabaseInUseError)
    await db.close()
    // No process has so high a number; and another one had this process's.
    for (const dead of ['4194305 1', `${process.pid} 1`]) {
      await writeFile(join(data, 'lock'), dead)
      const again = await connect(data)
      expect(await readFile(join(data, 'lock'), 'utf8')).toMatch(new RegExp(`^${process.pid} `))
      await again.close()
    }
  })

  plain('is opened by one of many who find the lock of a process that died', async () => {
    const data = await folder()
    await (await connect(data)).close()
    await writeFile(join(data, 'lock'), '4194305 1')

    const opened = await Promise.allSettled(Array.from({ length: 8 }, () => connect(data)))

    const failures = opened.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))
    expect(failures).toHaveLength(7)
    for (const failure of failures) expect(failure).toBeInstanceOf(DatabaseInUseError)
    for (const one of opened) if (one.status === 'fulfilled') await one.value.close()
  })

  plain('refuses a query beside the transaction that it is called from', async () => {
    const db = await connect('memory://')
    const one = sql`select 1 as one`

    await db.transaction(async (tx) => {
      await expect(rowsOf(db, one)).rejects.toBeInstanceOf(TransactionError)
      await expect(db.transaction(async () => {})).rejects.toBeInstanceOf(TransactionError)
      expect(await rowsOf(tx, one)).toEqual([{ one: 1 }])
    })
    const [first, second] = await Promise.all([
      db.transaction((tx) => rowsOf(tx, one)),
      rowsOf(db, one),
    ])
    expect(first).toEqual(second)
    await db.close()
  })

  plain('has the extensions that the schema needs, and pg_trgm', async () => {
    const db = await connect('memory://')
    await run(db.execute(sql`create extension pg_trgm`))

    expect(await rowsOf(db, sql`select similarity('word', 'words') > 0.5 as near`)).toEqual([
      { near: true },
    ])
    await db.close()
  })
})

plain('connect refuses options out of range before it opens anything', async () => {
  for (const options of [
    { maxConnections: 0 },
    { statementTimeoutMs: -1 },
    { idleTimeoutMs: 0.5 },
  ]) {
    const connecting = connect('postgres://nobody@127.0.0.1:1/none', options)
    await expect(connecting).rejects.toBeInstanceOf(ValidationError)
  }
  await expect(connect('')).rejects.toBeInstanceOf(ValidationError)
})

plain('a server that is not there is a typed error, without the password', async () => {
  const db = await connect('postgres://ann:geheim@127.0.0.1:1/none')

  const error = await rowsOf(db, sql`select 1`).catch((error) => error)

  expect(error).toBeInstanceOf(ConnectionError)
  expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain('geheim')
  await db.close()
})

describe('errors of the database', () => {
  test('become errors of plinth', async ({ db }) => {
    const scope = await makeScope(db)
    const failing = (statement: ReturnType<typeof sql>) =>
      db.transaction((tx) => rowsOf(tx, statement)).catch((error) => error)

    const { organizationId } = scope
    expect(
      await failing(sql`insert into identity.users (id, email, display_name) values
        (gen_random_uuid(), 'a@b.example', 'a'), (gen_random_uuid(), 'A@b.example', 'b')`),
    ).toMatchObject({ name: 'ConstraintError', kind: 'unique', table: 'users' })
    expect(
      await failing(sql`insert into identity.organizations (id, slug, name) values
        (gen_random_uuid(), '', 'a')`),
    ).toMatchObject({ kind: 'check', constraint: 'organizations_slug_check' })
    expect(
      await failing(sql`insert into identity.organizations (id, slug) values
        (gen_random_uuid(), 'a')`),
    ).toMatchObject({ kind: 'not_null', constraint: 'name' })
    const prices = sql`insert into costs.model_prices (id, provider, model, unit, nanos_per_million,
      valid_from) values (gen_random_uuid(), 'p', 'm', 'input', 1, '2026-01-01'),
      (gen_random_uuid(), 'p', 'm', 'input', 2, '2026-02-01')`
    expect(await failing(prices)).toMatchObject({ kind: 'exclusion' })
    expect(
      await db
        .transaction((tx) =>
          inTenant(tx, scope, (tenant) =>
            recordActivity(tenant, { action: 'a', occurredAt: new Date('1999-01-01') }),
          ),
        )
        .catch((error) => error),
    ).toBeInstanceOf(MissingPartitionError)
    expect(await failing(sql`create extension nowhere`)).toBeInstanceOf(MigrationError)
    expect(await failing(sql`select * from nowhere`)).not.toBeInstanceOf(ConstraintError)
    expect(organizationId).toBeDefined()
  })

  plain.skipIf(!url)('tell a timeout, and a lock that is held', async () => {
    const db = await connect(String(url), { statementTimeoutMs: 100, maxConnections: 1 })
    onTestFinished(() => db.close())

    await expect(rowsOf(db, sql`select pg_sleep(5)`)).rejects.toMatchObject({
      name: TimeoutError.name,
      waitedFor: 'statement',
    })
    const { id } = await makeOrganization(root)
    const patient = await connect(String(url), { maxConnections: 1 })
    onTestFinished(() => patient.close())
    await owner.transaction(async (holder) => {
      await rowsOf(holder, sql`select 1 from identity.organizations where id = ${id} for update`)
      const waiting = rowsOf(
        patient,
        sql`select 1 from identity.organizations where id = ${id} for update nowait`,
      )
      await expect(waiting).rejects.toBeInstanceOf(LockError)
    })
  })
})
