import { createHash } from 'node:crypto'
import { type SQL, sql } from 'drizzle-orm'
import { getTableConfig } from 'drizzle-orm/pg-core'
import { describe, expect, test } from 'vitest'
import { connect, only, rowsOf } from '../../src/database.ts'
import { ForbiddenError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { type ActivityEntry, recordActivities, recordActivity } from '../../src/queries/activity.ts'
import {
  type ActivityProblemKind,
  type VerifyActivityOptions,
  verifyActivity,
} from '../../src/queries/seal-verification.ts'
import {
  type ActivityHead,
  disableActivitySeals,
  enableActivitySeals,
  sealActivity,
} from '../../src/queries/seals.ts'
import { activityLogs } from '../../src/schema/activity.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { asService, inTenant, type Scope } from '../../src/tenant.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { owner, root, url } from '../support/database.ts'

// What is done behind plinth's back is done by the owner, in a session of its own: hence no fixture here.

const HOUR = 3_600_000
const hoursAgo = (hours: number) => new Date(Date.now() - hours * HOUR)

const record = (scope: Scope, entries: Partial<ActivityEntry>[]) =>
  inTenant(root, scope, (tenant) =>
    recordActivities(
      tenant,
      entries.map((entry) => ({ action: 'test.happened', ...entry })),
    ),
  )

const seal = ({ organizationId }: Scope, maxRows?: number) =>
  sealActivity({ db: root, organizationId }, { maxRows })

const verify = ({ organizationId }: Scope, options?: VerifyActivityOptions) =>
  verifyActivity({ db: root, organizationId }, options)

const behind = (statement: SQL) => rowsOf<Record<string, unknown>>(owner, statement)

/** A log of so many lines, one an hour and the latest now, sealed by threes. Their ids, oldest first. */
async function makeSealedLog(count = 8) {
  const scope = await makeScope(root)
  const ids = await record(
    scope,
    Array.from({ length: count }, (_, at) => ({ occurredAt: hoursAgo(count - at) })),
  )
  await inTenant(root, scope, enableActivitySeals)
  const { head } = await seal(scope, 3)
  return { scope, ids, head: head as ActivityHead }
}

const kinds = async (scope: Scope, options?: VerifyActivityOptions) =>
  (await verify(scope, options)).problems.map(({ kind, id, seal }) => [kind, id, seal])

describe('sealActivity', () => {
  test('seals what is there, once, and then what has come, late or not', async () => {
    const { scope, ids, head } = await makeSealedLog()
    expect(head).toEqual({ sequence: 3, hash: expect.stringMatching(/^[0-9a-f]{64}$/) })
    expect(await seal(scope)).toEqual({ organizations: 1, seals: 0, rows: 0, head })

    const [late, now] = await record(scope, [{ occurredAt: hoursAgo(5.5) }, {}])
    const seen: number[] = []
    const report = await sealActivity(
      { db: root, ...scope },
      { onProgress: ({ rows }) => seen.push(rows) },
    )
    expect(report).toMatchObject({ seals: 1, rows: 2, head: { sequence: 4 } })
    expect(seen).toEqual([2])

    const rows = await behind(
      sql`select row_id as id, sequence::integer, position from activity.sealed_rows
        where organization_id = ${scope.organizationId} order by sequence, position`,
    )
    const places = [...ids, late, now].map((id, at) => ({
      ...{
        id,
        sequence: at < 8 ? Math.floor(at / 3) + 1 : 4,
        position: at < 8 ? (at % 3) + 1 : at - 7,
      },
    }))
    expect(rows).toEqual(places)
    const whole = { ok: true, seals: 4, sealedRows: 10, unsealedRows: 0, problems: [] }
    expect(await verify(scope)).toEqual({ ...whole, head: report.head })
  })

  test('knows the newest of many seals', async () => {
    const { scope, head } = await makeSealedLog(31)
    expect(head.sequence).toBe(11)
    expect(await verify(scope)).toMatchObject({ ok: true, seals: 11, head })
  })

  test('is for admins and services, of an organization that wants it', async () => {
    const scope = await makeScope(root)
    const member = await joinScope(root, scope)
    await record(scope, [{}])
    await expect(seal(scope)).rejects.toBeInstanceOf(NotFoundError)
    await expect(inTenant(root, member, enableActivitySeals)).rejects.toBeInstanceOf(ForbiddenError)
    await inTenant(root, scope, enableActivitySeals)
    await inTenant(root, scope, enableActivitySeals)

    for (const call of [sealActivity, verifyActivity]) {
      await expect(call({ db: root, ...member })).rejects.toBeInstanceOf(ForbiddenError)
    }
    await expect(inTenant(root, member, disableActivitySeals)).rejects.toBeInstanceOf(
      ForbiddenError,
    )
    expect(await seal(scope)).toMatchObject({ rows: 1 })
    await inTenant(root, scope, disableActivitySeals)
    await expect(seal(scope)).rejects.toMatchObject({ entity: 'activity chain' })
    expect(await verify(scope)).toMatchObject({ ok: true, seals: 1 })
    await inTenant(root, scope, enableActivitySeals)
    expect(await seal(scope)).toMatchObject({ seals: 0, head: { sequence: 1 } })
    await expect(
      inTenant(root, scope, ({ db }) => rowsOf(db, sql`delete from activity.seals`)),
    ).rejects.toBeInstanceOf(ForbiddenError)
  })

  test('goes through all organizations that want it', async () => {
    const [one, other, none] = [await makeScope(root), await makeScope(root), await makeScope(root)]
    for (const scope of [one, other, none]) await record(scope, [{}, {}])
    for (const scope of [one, other]) await inTenant(root, scope, enableActivitySeals)
    await seal(one)
    expect(await verify(other)).toMatchObject({ ok: true, seals: 0, unsealedRows: 2 })
    await record(one, [{}])
    const sealed = new Map<string, ActivityHead>()

    await sealActivity(root, {
      onProgress: ({ organizationId, head }) => sealed.set(organizationId, head),
    })

    expect(sealed.get(one.organizationId)).toEqual((await verify(one)).head)
    expect(sealed.has(other.organizationId)).toBe(true)
    expect(sealed.has(none.organizationId)).toBe(false)
    expect(await verify(none)).toMatchObject({ ok: true, seals: 0, unsealedRows: 2 })
  })

  test('refuses a snapshot that may be older than its lock, and before any SQL', async () => {
    const { scope } = await makeSealedLog(1)
    const { organizationId } = scope
    const sealing = root.transaction((db) => sealActivity({ db, organizationId }), {
      isolationLevel: 'repeatable read',
    })
    await expect(sealing).rejects.toThrow(/read committed/)
    for (const options of [{ maxRows: 0 }, { since: new Date(Number.NaN) }]) {
      const refused = sealActivity({ db: root, organizationId }, options)
      await expect(refused).rejects.toBeInstanceOf(ValidationError)
    }
    for (const options of [
      ...[{ limit: 0 }, { lateMs: -1 }, { since: new Date(Number.NaN) }],
      { expectedHead: { sequence: 1, hash: 'x' } },
      { checkpoint: { sequence: 0, hash: '0'.repeat(64) } },
    ]) {
      await expect(verify(scope, options)).rejects.toBeInstanceOf(ValidationError)
    }
  })

  test('hashes as the guide says', async () => {
    const { scope } = await makeSealedLog(2)
    const found = only(
      await behind(
        sql`select *, encode(hash, 'hex') as hex, encode(rows_hash, 'hex') as rows_hex,
          extract(epoch from first_at) * 1000 as first_ms, extract(epoch from last_at) * 1000 as last_ms,
          extract(epoch from complete_at) * 1000 as complete_ms, extract(epoch from sealed_at) * 1000 as sealed_ms
          from activity.seals where organization_id = ${scope.organizationId}`,
      ),
    )
    const times = [found.first_ms, found.last_ms, found.complete_ms, found.sealed_ms].map(Number)
    const text = ['"plinth.seal.1"', `"${scope.organizationId}"`, 1, null, 2, `"${found.rows_hex}"`]
    const json = `[${[...text.map(String), ...times].join(', ')}]`
    expect(createHash('sha256').update(json).digest('hex')).toBe(found.hex)
  })
})

describe('verifyActivity finds', () => {
  const isRow = (scope: Scope, id: string | undefined) =>
    sql`organization_id = ${scope.organizationId} and id = ${id}`

  /** Another value of each type, so that whatever is changed changes it. */
  const OTHER: Record<string, SQL> = {
    uuid: sql`gen_random_uuid()`,
    text: sql`'other'`,
    jsonb: sql`'{"other": 1}'`,
    inet: sql`'10.0.0.1'`,
  }
  const { columns } = getTableConfig(activityLogs)
  const KEY = ['organization_id', 'id', 'occurred_at']

  test.each(
    columns.filter(({ name }) => !KEY.includes(name)).map((column) => [column.name, column]),
  )('an edited line, by its %s', async (name, column) => {
    const { scope, ids } = await makeSealedLog()
    await behind(
      sql`update activity.activity_logs set ${sql.identifier(name)} = ${OTHER[column.getSQLType()]}
          where ${isRow(scope, ids[4])}`,
    )
    const { ok, problems } = await verify(scope)
    expect(ok).toBe(false)
    expect(problems).toEqual([
      { kind: 'edited', id: ids[4], occurredAt: expect.any(Date), seal: 2 },
    ])
  })

  test('nothing where only the settings of the session are others', async () => {
    const { scope } = await makeSealedLog()
    const { organizationId } = scope
    const report = await root.transaction(async (db) => {
      await rowsOf(
        db,
        sql`select set_config('timezone', 'Asia/Kathmandu', true),
        set_config('datestyle', 'German', true), set_config('extra_float_digits', '-10', true),
        set_config('bytea_output', 'escape', true), set_config('intervalstyle', 'sql_standard', true)`,
      )
      await asService(db, organizationId, (tenant) =>
        recordActivity(tenant, { action: 'a', changes: { a: 1.5, b: 1e30 }, ip: '::1' }),
      )
      await sealActivity({ db, organizationId })
      return verifyActivity({ db, organizationId })
    })
    expect(report).toMatchObject({ ok: true, sealedRows: 9 })
    expect(await verify(scope)).toEqual(report)
  })

  test('a deleted line, and one whose time was changed', async () => {
    const { scope, ids } = await makeSealedLog()
    await behind(sql`delete from activity.activity_logs where ${isRow(scope, ids[0])}`)
    await behind(
      sql`update activity.activity_logs set occurred_at = occurred_at + interval '1 minute'
        where ${isRow(scope, ids[7])}`,
    )
    expect(await kinds(scope)).toEqual([
      ['deleted', ids[0], 1],
      ['deleted', ids[7], 3],
    ])
    // Under its new time it is a line that is not sealed, and too late where a minute is.
    expect(await kinds(scope, { lateMs: 60_000 })).toContainEqual(['inserted', ids[7], undefined])
  })

  test('an inserted line, before it is sealed and ever after', async () => {
    const { scope, ids } = await makeSealedLog(60)
    const id = uuidV7()
    const late = await record(scope, [{ occurredAt: hoursAgo(2.5) }])
    await behind(
      sql`insert into activity.activity_logs (organization_id, id, action, occurred_at)
        values (${scope.organizationId}, ${id}, 'test.happened', ${hoursAgo(40.5)})`,
    )
    expect(await verify(scope)).toMatchObject({ ok: false, unsealedRows: 2 })
    expect(await kinds(scope)).toEqual([['inserted', id, undefined]])
    await seal(scope)
    expect(await kinds(scope)).toEqual([['inserted', id, 21]])
    await record(scope, [{}])
    await seal(scope)
    expect(await kinds(scope)).toEqual([['inserted', id, 21]])
    // Within an hour neither was honest.
    expect(await kinds(scope, { lateMs: HOUR })).toEqual([
      ['inserted', id, 21],
      ['inserted', late[0], 21],
    ])
    expect(ids).toHaveLength(60)
  })

  test('a line whose digest was put into a seal that does not count it', async () => {
    const { scope } = await makeSealedLog()
    const id = uuidV7()
    await behind(
      sql`with line as (
          insert into activity.activity_logs as l (organization_id, id, action, occurred_at)
          values (${scope.organizationId}, ${id}, 'test.happened', ${hoursAgo(4.5)})
          returning l.*, activity.row_digest(l) as digest)
        insert into activity.sealed_rows (organization_id, sequence, position, row_id, digest, occurred_at)
        select organization_id, 2, 4, id, digest, occurred_at from line`,
    )
    expect(await kinds(scope)).toEqual([
      ['chain', undefined, 2],
      ['inserted', id, 2],
    ])
  })

  test('an edited line whose digest was made anew, by its seal', async () => {
    const { scope, ids } = await makeSealedLog()
    await behind(
      sql`with line as (
          update activity.activity_logs as l set action = 'other' where ${isRow(scope, ids[4])} returning l.*)
        update activity.sealed_rows r set digest = activity.row_digest(row (
            line.organization_id, line.id, line.actor_id, line.action, line.resource_type, line.resource_id,
            line.resource_name, line.changes, line.metadata, line.ip, line.user_agent, line.request_id,
            line.occurred_at)::activity.activity_logs)
        from line where r.organization_id = line.organization_id and r.row_id = line.id`,
    )
    expect(await kinds(scope)).toEqual([['chain', undefined, 2]])
  })

  const isSeal = (scope: Scope, sequence: number) =>
    sql`organization_id = ${scope.organizationId} and sequence = ${sequence}`
  /** The hash that a seal with these columns has to have. */
  const rehash = (scope: Scope, sequence: number) =>
    behind(
      sql`update activity.seals s set hash = sha256(convert_to(jsonb_build_array('plinth.seal.1', organization_id,
          sequence, encode(previous_hash, 'hex'), row_count, encode(rows_hash, 'hex'),
          (extract(epoch from first_at) * 1000)::bigint, (extract(epoch from last_at) * 1000)::bigint,
          (extract(epoch from complete_at) * 1000)::bigint, (extract(epoch from sealed_at) * 1000)::bigint)::text, 'UTF8'))
        where ${isSeal(scope, sequence)}`,
    )

  test.each(['sealed_at', 'complete_at', 'first_at', 'last_at'])(
    'a seal whose %s was edited, also with a hash made anew',
    async (column) => {
      const { scope } = await makeSealedLog()
      await behind(
        sql`update activity.seals set ${sql.identifier(column)} = now() - interval '1 year' where ${isSeal(scope, 2)}`,
      )
      expect(await kinds(scope)).toEqual([['chain', undefined, 2]])
      await rehash(scope, 2)
      expect(await kinds(scope)).toEqual([['chain', undefined, 3]])
    },
  )

  test('a seal that was taken out, in the middle and at the beginning', async () => {
    const [middle, first] = [await makeSealedLog(), await makeSealedLog()]
    await behind(sql`delete from activity.seals where ${isSeal(middle.scope, 2)}`)
    await behind(sql`delete from activity.seals where ${isSeal(first.scope, 1)}`)
    expect(await kinds(middle.scope)).toEqual([['chain', undefined, 3]])
    expect(await kinds(first.scope)).toEqual([['truncated', undefined, 1]])
  })

  test('seals that were cut off, by a head that was kept elsewhere', async () => {
    const { scope, ids, head } = await makeSealedLog()
    await behind(
      sql`delete from activity.activity_logs where organization_id = ${scope.organizationId}
        and id = any(array[${ids[6]}, ${ids[7]}]::uuid[])`,
    )
    await behind(sql`delete from activity.seals where ${isSeal(scope, 3)}`)
    expect(await verify(scope)).toMatchObject({ ok: true, seals: 2 })
    expect(await kinds(scope, { expectedHead: head })).toEqual([['truncated', undefined, 3]])
    const checkpoint = head
    expect(await kinds(scope, { checkpoint })).toContainEqual(['truncated', undefined, 3])

    // Nor does it help to go on from there.
    await record(scope, [{}])
    expect((await seal(scope)).head?.sequence).toBe(3)
    expect(await verify(scope)).toMatchObject({ ok: true, seals: 3 })
    expect(await kinds(scope, { expectedHead: head })).toEqual([['chain', undefined, 3]])
  })

  test('an expected seal that is not the one at its place, at the checkpoint and before it', async () => {
    const { scope, head } = await makeSealedLog()
    const [first, second] = (
      await behind(
        sql`select sequence::integer, encode(hash, 'hex') as hash from activity.seals
          where organization_id = ${scope.organizationId} order by sequence`,
      )
    ).map(({ sequence, hash }) => ({ sequence: Number(sequence), hash: String(hash) }))
    const other = (seal = head) => ({ ...seal, hash: '0'.repeat(64) })

    for (const expectedHead of [first, second]) {
      expect(await verify(scope, { checkpoint: second, expectedHead })).toMatchObject({ ok: true })
      expect(await kinds(scope, { checkpoint: second, expectedHead: other(expectedHead) })).toEqual(
        [['chain', undefined, expectedHead?.sequence]],
      )
    }
    expect(await kinds(scope, { checkpoint: head, expectedHead: other() })).toEqual([
      ['chain', undefined, 3],
    ])

    // Which of the two happened, retention or somebody, nothing here can say.
    await behind(sql`delete from activity.sealed_rows where ${isSeal(scope, 1)}`)
    await behind(sql`delete from activity.seals where ${isSeal(scope, 1)}`)
    await expect(
      verify(scope, { checkpoint: second, expectedHead: first, since: hoursAgo(5.5) }),
    ).rejects.toMatchObject({ name: 'ValidationError', argument: 'expectedHead' })
  })

  test('digests whose seal is gone', async () => {
    const { scope } = await makeSealedLog()
    await owner.transaction(async (tx) => {
      await rowsOf(tx, sql`select set_config('session_replication_role', 'replica', true)`)
      await rowsOf(tx, sql`delete from activity.seals where ${isSeal(scope, 3)}`)
    })
    expect(await kinds(scope)).toEqual([['truncated', undefined, 3]])
  })

  test('as many as are asked for, and says that it is not well in any case', async () => {
    const { scope, ids } = await makeSealedLog()
    await behind(
      sql`delete from activity.activity_logs where organization_id = ${scope.organizationId}`,
    )
    const problems = await kinds(scope, { limit: 5 })
    expect(problems).toEqual(
      ids.slice(0, 5).map((id, at) => ['deleted', id, Math.floor(at / 3) + 1]),
    )
    expect(await verify(scope)).toMatchObject({ ok: false, problems: { length: 8 } })
  })

  test('nothing in what remains, from a time and from a checkpoint on', async () => {
    const { scope, ids, head } = await makeSealedLog()
    await behind(
      sql`delete from activity.activity_logs where organization_id = ${scope.organizationId}
        and id = any(array[${ids[0]}, ${ids[1]}, ${ids[2]}]::uuid[])`,
    )
    expect(await verify(scope, { since: hoursAgo(5.5) })).toMatchObject({
      ok: true,
      seals: 3,
      head,
    })
    const [one] = await behind(
      sql`select encode(hash, 'hex') as hash from activity.seals where ${isSeal(scope, 1)}`,
    )
    await behind(sql`delete from activity.seals where ${isSeal(scope, 1)}`)
    const checkpoint = { sequence: 1, hash: String(one?.hash) }
    const options = { checkpoint, expectedHead: head, since: hoursAgo(5.5) }
    expect(await verify(scope, options)).toMatchObject({ ok: true, seals: 2, sealedRows: 5, head })
    const wrong = { checkpoint: { sequence: 1, hash: '0'.repeat(64) }, since: hoursAgo(5.5) }
    expect(await kinds(scope, wrong)).toEqual([
      ['chain' satisfies ActivityProblemKind, undefined, 2],
    ])
  })
})

describe.skipIf(!url)('with writers and sealers beside each other', () => {
  test('400 writers and 8 sealers make one chain, with every line in one seal', async () => {
    const scope = await makeScope(root)
    const { organizationId } = scope
    await inTenant(root, scope, enableActivitySeals)
    const [writers, sealers] = [
      await connect(url, { maxConnections: 50, acquireTimeoutMs: 60_000 }),
      await connect(url, { maxConnections: 8, acquireTimeoutMs: 60_000 }),
    ]
    try {
      let isOver = false
      const sealing = Array.from({ length: 8 }, async () => {
        let seals = 0
        while (!isOver)
          seals += (await sealActivity({ db: sealers, organizationId }, { maxRows: 7 })).seals
        return seals
      })
      const writing = Array.from({ length: 400 }, (_, writer) =>
        inTenant(writers, scope, (tenant) =>
          recordActivities(
            tenant,
            Array.from({ length: 3 }, (_, at) => ({
              action: `test.${writer}`,
              ...(at === 1 && { occurredAt: hoursAgo((writer % 20) / 10) }),
            })),
          ),
        ),
      )
      await Promise.all(writing).finally(() => {
        isOver = true
      })
      const seals = (await Promise.all(sealing)).reduce((sum, one) => sum + one, 0)
      const last = await sealActivity({ db: sealers, organizationId })

      expect(seals).toBeGreaterThan(20)
      const report = await verify(scope)
      expect(report).toMatchObject({ ok: true, sealedRows: 1_200, unsealedRows: 0 })
      expect(report.seals).toBe(seals + last.seals)
      expect(report.head).toEqual(last.head)
      const [rows] = await behind(
        sql`select count(*)::integer as sealed, count(distinct row_id)::integer as lines
          from activity.sealed_rows where organization_id = ${organizationId}`,
      )
      expect(rows).toEqual({ sealed: 1_200, lines: 1_200 })
    } finally {
      await writers.close()
      await sealers.close()
    }
  }, 60_000)

  test('a line is written while a seal is open, and its writer waits for nothing', async () => {
    const { scope } = await makeSealedLog()
    await record(scope, [{}])
    const { organizationId } = scope
    await asService(root, organizationId, async (tenant) => {
      expect(await sealActivity(tenant)).toMatchObject({ rows: 1 })
      // Within the transaction that holds the lock of the chain.
      await inTenant(root, scope, async (writer) => {
        await rowsOf(writer.db, sql`select set_config('lock_timeout', '100ms', true)`)
        await recordActivity(writer, { action: 'test.meanwhile' })
      })
    })
    expect(await verify(scope)).toMatchObject({ ok: true, unsealedRows: 1 })
  })

  test('what is committed late is in a later seal', async () => {
    const { scope } = await makeSealedLog()
    await inTenant(root, scope, async (writer) => {
      await recordActivity(writer, { action: 'test.late', occurredAt: hoursAgo(3.5) })
      await record(scope, [{}])
      expect(await seal(scope)).toMatchObject({ rows: 1 })
    })
    expect(await seal(scope)).toMatchObject({ rows: 1, head: { sequence: 5 } })
    expect(await verify(scope)).toMatchObject({ ok: true, sealedRows: 10 })
  })
})
