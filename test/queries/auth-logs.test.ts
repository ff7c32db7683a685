import { createHash, createHmac } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { describe, expect } from 'vitest'
import { rowsOf } from '../../src/database.ts'
import { ValidationError } from '../../src/errors.ts'
import {
  countRecentFailures,
  hashEmail,
  listAuthLogs,
  recordAuth,
} from '../../src/queries/auth-logs.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { makeAuthLog } from '../../src/testing/activity.ts'
import { owner, test } from '../support/database.ts'

const windowMs = 3_600_000
const address = () => `${uuidV7()}@example.com`

describe('recordAuth', () => {
  test('keeps the hash of an address, and no secret', async ({ db }) => {
    const [email, pepper] = [` ${address().toUpperCase()} `, 'a pepper of the service']
    const normal = email.trim().toLowerCase()
    expect(hashEmail(email)).toEqual(createHash('sha256').update(normal).digest())
    expect(hashEmail(email, { pepper })).toEqual(
      createHmac('sha256', pepper).update(normal).digest(),
    )

    const id = await recordAuth(db, {
      ...{ event: 'login', success: false, email, pepper, ip: '192.0.2.7' },
      reason: 'password=hunter2 is wrong',
    })

    const [line] = await listAuthLogs(db, { email: normal, pepper })
    expect(line).toMatchObject({ id, ip: '192.0.2.7', reason: 'password=[redacted] is wrong' })
    expect(await listAuthLogs(db, { email: normal })).toEqual([])
    const stored = await rowsOf<{ row: string }>(
      db,
      sql`select l::text as row from activity.auth_logs l where id = ${id}`,
    )
    expect(stored[0]?.row.toLowerCase()).not.toContain(normal)
  })

  test('refuses at the door', async ({ db }) => {
    const entry = { event: 'login', success: false, email: 'a@b' }
    for (const wrong of [
      ...[{ event: '' }, { email: 'nobody' }, { ip: 'fe80::1%eth0' }, { ip: '1.2.3.4/8' }],
      ...[{ pepper: 'short' }, { email: null }, { userId: 'x' }, { reason: 'a\0' }],
    ]) {
      await expect(recordAuth(db, { ...entry, ...wrong })).rejects.toBeInstanceOf(ValidationError)
    }
    await expect(countRecentFailures(db, { windowMs })).rejects.toBeInstanceOf(ValidationError)
    await expect(countRecentFailures(db, { email: 'a@b', windowMs: 0 })).rejects.toThrow()
  })
})

describe('countRecentFailures', () => {
  test('counts since the last success of the account, and all of a network', async ({ db }) => {
    const [email, userId] = [address(), uuidV7()]
    const ip = '203.0.113.9'
    const fail = (entry = {}) => makeAuthLog(db, { email, ip, ...entry })
    const count = (options = {}) => countRecentFailures(db, { email, ip, windowMs, ...options })

    expect(await count()).toEqual({ account: 0, network: 0 })
    await fail()
    await fail()
    expect(await count()).toEqual({ account: 2, network: 2 })
    await fail({ success: true })
    expect(await count(), 'a success excuses the account, not the network').toEqual({
      ...{ account: 0, network: 2 },
    })
    await fail({ userId })
    await fail({ email: address() })
    expect(await count()).toEqual({ account: 1, network: 4 })
    await fail({ email: address(), userId })
    expect(await count({ userId }), 'by whichever has more').toEqual({ account: 2, network: 5 })
    expect(await countRecentFailures(db, { userId, windowMs })).toEqual({ account: 2, network: 0 })
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(await count({ windowMs: 20 })).toEqual({ account: 0, network: 0 })
  })

  test('counts a customer’s whole network of version 6, and version 4 however it is written', async ({
    db,
  }) => {
    const net = () => Math.floor(Math.random() * 65_536).toString(16)
    const prefix = `2001:db8:${net()}:${net()}`
    const of = async (ip: string) => (await countRecentFailures(db, { ip, windowMs })).network
    await makeAuthLog(db, { ip: `${prefix}::1` })
    await makeAuthLog(db, { ip: `${prefix}:ffff:1:2:3` })
    await makeAuthLog(db, { ip: '::ffff:198.51.100.77' })

    expect(await of(`${prefix}:0:0:0:9`)).toBe(2)
    expect(await of('2001:db8::1')).toBe(0)
    expect(await of('198.51.100.77')).toBe(1)
    expect(await of('::ffff:c633:644d')).toBe(1)
    expect(await of('0:0:0:0:0:ffff:198.51.100.77')).toBe(1)
    expect(await of('::ffff:198.51.100.78')).toBe(0)
  })

  test('reads the newest lines of one index, a thousand at most', async ({ db }) => {
    const email = address()
    await rowsOf(
      db,
      sql`insert into activity.auth_logs (id, event, success, email_hash, occurred_at)
        select gen_random_uuid(), 'login', false, decode(${hashEmail(email).toString('hex')}, 'hex'),
          now() - n * interval '10 milliseconds' from generate_series(1, 3000) n returning id`,
    )
    expect(await countRecentFailures(db, { email, windowMs })).toEqual({
      account: 1_000,
      network: 0,
    })
    const plan = await rowsOf<{ 'QUERY PLAN': string }>(
      db,
      sql`explain select success from activity.auth_logs where email_hash = '\\x00' and occurred_at > now() - interval '1 hour'
        order by occurred_at desc, id desc limit 1000`,
    )
    const text = plan.map((row) => row['QUERY PLAN']).join('\n')
    expect(text).toMatch(/Index Scan Backward/)
    expect(text).not.toMatch(/Seq Scan|Sort/)
  })
})

test('listAuthLogs lists newest first, a page at a time', async ({ db }) => {
  const userId = uuidV7()
  const ids: string[] = []
  for (let at = 0; at < 3; at += 1) {
    ids.unshift(await makeAuthLog(db, { userId }))
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  const [first, ...rest] = await listAuthLogs(db, { userId })
  expect([first, ...rest].map((line) => line?.id)).toEqual(ids)
  expect(await listAuthLogs(db, { userId, after: first })).toEqual(rest)
  expect(await listAuthLogs(db, { userId, limit: 1 })).toEqual([first])
  expect(await listAuthLogs(db, { userId, since: new Date(Date.now() + 60_000) })).toEqual([])
})

test('the platform appends, and changes nothing', async () => {
  const may = await rowsOf<{ may: string }>(
    owner,
    sql`select p as may from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p
      where has_table_privilege('plinth_platform', 'activity.auth_logs', p)
        or has_table_privilege('plinth_app', 'activity.auth_logs', p)`,
  )
  expect(may.map((row) => row.may)).toEqual(['select', 'insert'])
})
