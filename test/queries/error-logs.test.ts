import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { NotFoundError, ValidationError } from '../../src/errors.ts'
import {
  listErrorGroups,
  listErrors,
  recordError,
  resolveErrorGroup,
} from '../../src/queries/error-logs.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { makeErrorLog } from '../../src/testing/activity.ts'
import { owner, root, test, url } from '../support/database.ts'

const groupOf = async (db: Parameters<typeof listErrorGroups>[0], fingerprint: string) =>
  (await listErrorGroups(db, { state: 'all', limit: 500 })).find(
    (group) => group.fingerprint === fingerprint,
  )

describe('recordError', () => {
  test('groups what has the same cause', async ({ db }) => {
    const fail = (id: number) => new Error(`post ${id} of "${uuidV7()}" is gone`)
    const one = await recordError(db, { error: fail(1), code: 'gone' })
    const two = await recordError(db, { error: fail(2), code: 'gone' })
    const other = await recordError(db, { error: fail(2), code: 'other' })
    const own = await recordError(db, { error: 'whatever', fingerprint: uuidV7() })

    expect(two.fingerprint).toBe(one.fingerprint)
    expect(new Set([one, other, own].map(({ fingerprint }) => fingerprint)).size).toBe(3)
    expect(await groupOf(db, one.fingerprint)).toMatchObject({
      ...{ code: 'gone', level: 'error', occurrences: 2, resolvedAt: null },
      message: expect.stringMatching(/^Error: post 1/),
    })
    const listed = await listErrors(db, { fingerprint: one.fingerprint })
    expect(listed.map(({ id }) => id)).toEqual([two.id, one.id])
    expect(listed[0]?.stack).toContain('error-logs.test.ts')
  })

  test('keeps no parameter of a query that failed', async ({ db }) => {
    const secret = 'correct horse\n    at battery (staple)'
    // In a savepoint: the embedded database has one session.
    const failed = await db
      .transaction((tx) => tx.execute(sql`select ${secret}::text::integer`))
      .catch((error: unknown) => error)
    const { id, fingerprint } = await recordError(db, { error: failed })
    const listed = await listErrors(db, { fingerprint })
    expect(listed.map((line) => line.id)).toEqual([id])
    expect(listed[0]?.message).toMatch(/^DrizzleQueryError: Failed query: select/)
    expect(listed[0]?.stack).toMatch(/\n +at /)
    expect(JSON.stringify(listed)).not.toMatch(/horse|battery/)
  })

  test('takes an error whose stack is no text', async ({ db }) => {
    const error = Object.assign(new Error('gone'), { stack: 5 })
    const { fingerprint } = await recordError(db, { error })
    expect(await listErrors(db, { fingerprint })).toMatchObject([{ stack: '5' }])
  })

  test('keeps no secret, of message, stack, code or context', async ({ db }) => {
    const secret = 'hunter2hunter2'
    const error = Object.assign(new Error(`login with password=${secret} failed`), {
      code: `token=${secret}`,
    })
    const { id } = await recordError(db, { error, context: { headers: { cookie: secret }, at: 1 } })
    const rows = await rowsOf<{ row: string }>(
      db,
      sql`select to_jsonb(l)::text as row from activity.error_logs l where id = ${id}
        union all select to_jsonb(g)::text from activity.error_groups g`,
    )
    expect(rows.length).toBeGreaterThan(1)
    expect(JSON.stringify(rows)).not.toContain(secret)
    expect(JSON.stringify(rows)).toContain('"at')
  })

  test('takes whatever was thrown, and cuts off what is too long', async ({ db }) => {
    const { fingerprint } = await recordError(db, { error: `\0${'x'.repeat(50_000)}\ud800` })
    const [line] = await listErrors(db, { fingerprint })
    expect(line?.message).toHaveLength(10_000)
    for (const wrong of [{ error: 12 }, { error: undefined }, { error: 'a', context: { a: 1n } }]) {
      await expect(recordError(db, wrong as never)).rejects.toBeInstanceOf(ValidationError)
    }
    await expect(recordError(db, { error: 'a', userId: 'x' })).rejects.toThrow(ValidationError)
  })

  test('lists by organization and by user, a page at a time', async ({ db }) => {
    const [organizationId, userId] = [uuidV7(), uuidV7()]
    const a = await makeErrorLog(db, { organizationId })
    await new Promise((resolve) => setTimeout(resolve, 2))
    const b = await makeErrorLog(db, { organizationId, userId })
    const ids = (lines: { id: string }[]) => lines.map(({ id }) => id)

    expect(ids(await listErrors(db, { organizationId }))).toEqual([b.id, a.id])
    expect(ids(await listErrors(db, { userId }))).toEqual([b.id])
    const [first] = await listErrors(db, { organizationId, limit: 1 })
    expect(ids(await listErrors(db, { organizationId, after: first }))).toEqual([a.id])
  })
})

describe('resolveErrorGroup', () => {
  test('closes a group until the next occurrence', async ({ db }) => {
    const fingerprint = uuidV7()
    const fail = () => makeErrorLog(db, { fingerprint })
    const open = async () =>
      (await listErrorGroups(db, { limit: 500 })).some((group) => group.fingerprint === fingerprint)
    await fail()
    const id = (await groupOf(db, fingerprint))?.id ?? ''
    const resolvedBy = uuidV7()

    await resolveErrorGroup(db, { id, resolvedBy })
    const resolved = await groupOf(db, fingerprint)
    await resolveErrorGroup(db, { id, resolvedBy: uuidV7() })
    expect(await open()).toBe(false)
    expect(await groupOf(db, fingerprint)).toMatchObject({
      ...{ resolvedBy, resolvedAt: resolved?.resolvedAt },
    })
    await fail()
    expect(await open()).toBe(true)
    expect(await groupOf(db, fingerprint)).toMatchObject({ resolvedBy: null, occurrences: 2 })
    await expect(resolveErrorGroup(db, { id: uuidV7() })).rejects.toBeInstanceOf(NotFoundError)
  })
})

describe('listErrorGroups', () => {
  test('lists the last seen first, a page at a time, and counts to a thousand', async ({ db }) => {
    const [a, b] = [uuidV7(), uuidV7()]
    await makeErrorLog(db, { fingerprint: a })
    await new Promise((resolve) => setTimeout(resolve, 2))
    await makeErrorLog(db, { fingerprint: b })
    await rowsOf(
      db,
      sql`insert into activity.error_logs (id, level, fingerprint, message)
        select gen_random_uuid(), 'error', ${b}, 'x' from generate_series(1, 1100) returning id`,
    )
    const [first, second] = (await listErrorGroups(db)).filter(({ fingerprint }) =>
      [a, b].includes(fingerprint),
    )
    expect([first?.fingerprint, second?.fingerprint]).toEqual([b, a])
    expect([first?.occurrences, second?.occurrences]).toEqual([1_000, 1])
    const [next] = await listErrorGroups(db, { after: first, limit: 1 })
    expect(next?.fingerprint).toBe(a)
  })
})

test.skipIf(!url)('errors by the hundred make one group, and none waits for another', async () => {
  const fingerprint = uuidV7()
  const fail = () => makeErrorLog(root, { fingerprint })
  await Promise.all(Array.from({ length: 100 }, fail))
  const [found] = await rowsOf<{ groups: number; lines: number }>(
    owner,
    sql`select (select count(*) from activity.error_groups where fingerprint = ${fingerprint})::integer as groups,
      (select count(*) from activity.error_logs where fingerprint = ${fingerprint})::integer as lines`,
  )
  expect(found).toEqual({ groups: 1, lines: 100 })

  // Due to be written, while somebody else has the group.
  await rowsOf(
    owner,
    sql`update activity.error_groups set last_seen_at = now() - interval '1 hour'
      where fingerprint = ${fingerprint} returning id`,
  )
  const done = await owner.transaction(async (tx) => {
    await rowsOf(
      tx,
      sql`select id from activity.error_groups where fingerprint = ${fingerprint} for update`,
    )
    return Promise.race([
      Promise.all([fail(), fail()]).then(() => 'recorded'),
      new Promise((resolve) => setTimeout(resolve, 3_000, 'waits')),
    ])
  })
  expect(done).toBe('recorded')
})
