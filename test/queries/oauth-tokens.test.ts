import { randomBytes } from 'node:crypto'
import type { PGlite } from '@electric-sql/pglite'
import { sql } from 'drizzle-orm'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { drizzle as drizzlePostgres } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { describe, expect } from 'vitest'
import { type Database, rowsOf } from '../../src/database.ts'
import { ConstraintError, KeyRingError, NotFoundError, ValidationError } from '../../src/errors.ts'
import { openKeyRing } from '../../src/key-ring.ts'
import {
  listTokens,
  openToken,
  removeToken,
  rotateTokens,
  sealToken,
} from '../../src/queries/oauth-tokens.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import { rollback } from '../../src/testing/database.ts'
import { makeOauthToken, makeUser } from '../../src/testing/factories.ts'
import { adminUrl, root, test } from '../support/database.ts'
import * as own from '../support/own-database.ts'

const keys = { k1: randomBytes(32), k2: randomBytes(32), k3: randomBytes(32) }
const first = openKeyRing({ keys: { k1: keys.k1 }, current: 'k1' })
const second = openKeyRing({ keys: { k1: keys.k1, k2: keys.k2 }, current: 'k2' })
const account = { provider: 'google', account: 'ann@example.com' }

describe('sealToken and openToken', () => {
  test('give back what was sealed, to who has the key', async ({ db }) => {
    const { id: userId } = await makeUser(db)
    const owner = { userId, ...account }
    const expiresAt = new Date('2020-01-01T00:00:00Z')
    const sealed = await sealToken(db, first, {
      ...{ ...owner, accessToken: 'a-1', refreshToken: 'r-1', scopes: ['mail "x", y'], expiresAt },
    })

    expect(JSON.stringify(sealed)).not.toMatch(/a-1|r-1|iphertext/)
    expect(await openToken(db, first, owner)).toMatchObject({
      ...{ accessToken: 'a-1', refreshToken: 'r-1', scopes: ['mail "x", y'], expiresAt },
      isExpired: true,
    })
    const other = openKeyRing({ keys: { k2: keys.k2 }, current: 'k2' })
    await expect(openToken(db, other, owner)).rejects.toMatchObject({
      ...{ name: 'KeyRingError', reason: 'unknown_key', keyId: 'k1' },
    })
  })

  test('replace the tokens of an account; a refresh token stays until it is replaced', async ({
    db,
  }) => {
    const { id: userId } = await makeUser(db)
    const owner = { userId, ...account }
    await sealToken(db, first, { ...owner, accessToken: 'a-1', refreshToken: 'r-1' })

    const kept = await sealToken(db, second, { ...owner, accessToken: 'a-2' })
    expect(kept.keyId, 'the refresh token still needs k1').toBe('')
    expect(await openToken(db, second, owner)).toMatchObject({
      accessToken: 'a-2',
      refreshToken: 'r-1',
    })
    expect(await rotateTokens(db, second)).toMatchObject({ rotated: 1, remaining: 0 })
    await sealToken(db, second, { ...owner, accessToken: 'a-3', refreshToken: null })
    expect(await openToken(db, second, owner)).toMatchObject({
      ...{ accessToken: 'a-3', refreshToken: null, keyId: 'k2', isExpired: false },
    })
    expect(await listTokens(db, { userId })).toHaveLength(1)
  })

  test('leave nothing under a key that a slower process still seals by', async ({ db }) => {
    const { id: userId } = await makeUser(db)
    const owner = { userId, ...account }
    await sealToken(db, second, { ...owner, accessToken: 'a-1', refreshToken: 'r-1' })
    const slower = openKeyRing({ keys: { k1: keys.k1, k2: keys.k2 }, current: 'k1' })
    await sealToken(db, slower, { ...owner, accessToken: 'a-2' })

    expect(await rotateTokens(db, second)).toMatchObject({ rotated: 1, remaining: 0 })
    const alone = openKeyRing({ keys: { k2: keys.k2 }, current: 'k2' })
    expect(await openToken(db, alone, owner)).toMatchObject({
      accessToken: 'a-2',
      refreshToken: 'r-1',
    })
  })

  test('refuse a ciphertext of another row, column or account', async ({ db }) => {
    const one = await makeOauthToken(db, first)
    const two = await makeOauthToken(db, first)
    const move = async (set: string) => {
      await rollback(db, async (tx) => {
        await rowsOf(
          tx,
          sql`update identity.oauth_tokens t set ${sql.raw(set)} from identity.oauth_tokens o
            where t.id = ${one.id} and o.id = ${two.id} returning t.id`,
        )
        const [{ userId, provider, account } = one] = await listTokens(tx, { userId: one.userId })
        const opening = openToken(tx, first, { userId, provider, account })
        await expect(opening, set).rejects.toMatchObject({ reason: 'tampered' })
        await expect(opening).rejects.toBeInstanceOf(KeyRingError)
      })
    }
    await move('access_ciphertext = o.access_ciphertext')
    await move('access_ciphertext = t.refresh_ciphertext')
    await move("account = 'another'")
    await move("provider = 'another'")
  })

  test('refuse at the door', async ({ db }) => {
    const { id: userId } = await makeUser(db)
    const token = { userId, ...account, accessToken: 'a' }
    for (const wrong of [
      ...[{ userId: 'x' }, { provider: '' }, { account: 'a\0' }, { accessToken: '' }],
      ...[{ refreshToken: '' }, { scopes: [''] }, { expiresAt: new Date(Number.NaN) }],
    ]) {
      await expect(sealToken(db, first, { ...token, ...wrong })).rejects.toBeInstanceOf(
        ValidationError,
      )
    }
    const unknown = db.transaction((tx) => sealToken(tx, first, { ...token, userId: uuidV7() }))
    await expect(unknown).rejects.toBeInstanceOf(ConstraintError)
    await expect(openToken(db, first, token)).rejects.toBeInstanceOf(NotFoundError)
    await expect(removeToken(db, token)).rejects.toBeInstanceOf(NotFoundError)
  })
})

test('no statement, no parameter and no column ever has a token in it', async () => {
  const sent: string[] = []
  const logger = {
    logQuery: (text: string, params: unknown[]) =>
      void sent.push(
        text,
        ...params.map((one) =>
          one instanceof Uint8Array ? Buffer.from(one).toString('latin1') : JSON.stringify(one),
        ),
      ),
  }
  const client = postgres(adminUrl ?? '', { max: 1, onnotice: () => {} })
  const embedded = (root as Database & { $client?: PGlite }).$client
  const db: Database = adminUrl
    ? drizzlePostgres({ client, logger })
    : drizzlePglite({ client: embedded, logger })
  try {
    await rollback(db, async (tx) => {
      const { id: userId } = await makeUser(tx)
      const [accessToken, refreshToken] = ['ya29-plaintext-access', 'plaintext-refresh']
      const owner = { userId, ...account }
      await sealToken(tx, first, { ...owner, accessToken, refreshToken })
      await rotateTokens(tx, second)
      await sealToken(tx, second, { ...owner, accessToken })
      expect(await openToken(tx, second, owner)).toMatchObject({ accessToken, refreshToken })
      const rows = await rowsOf<{ row: string }>(
        tx,
        sql`select t::text || encode(access_ciphertext, 'escape') || encode(refresh_ciphertext, 'escape') as row
          from identity.oauth_tokens t where user_id = ${userId}`,
      )
      sent.push(...rows.map(({ row }) => row))
    })
  } finally {
    await client.end()
  }
  expect(sent.length).toBeGreaterThan(10)
  const all = sent.join('\n')
  expect(all).toContain('ann@example.com')
  for (const text of ['plaintext', ...Object.values(keys).map((key) => key.toString('latin1'))]) {
    for (const form of [
      text,
      Buffer.from(text).toString('hex'),
      Buffer.from(text).toString('base64').slice(0, -4),
    ]) {
      expect(all).not.toContain(form)
    }
  }
})

// Every row of the table is rotated: with a database of its own, they are this file's.
describe('rotateTokens', () => {
  own.test('goes on where it was, counts what remains, and does nothing twice', async ({ db }) => {
    const tokens = []
    for (let at = 0; at < 5; at += 1)
      tokens.push(await makeOauthToken(db, first, { accessToken: `a-${at}` }))

    expect(await rotateTokens(db, second, { limit: 2 })).toEqual({
      rotated: 2,
      remaining: 3,
      failures: [],
    })
    expect(await rotateTokens(db, second)).toEqual({ rotated: 3, remaining: 0, failures: [] })
    expect(await rotateTokens(db, second)).toEqual({ rotated: 0, remaining: 0, failures: [] })
    const alone = openKeyRing({ keys: { k2: keys.k2 }, current: 'k2' })
    for (const [at, { userId, provider, account }] of tokens.entries()) {
      const opened = await openToken(db, alone, { userId, provider, account })
      expect(opened).toMatchObject({ accessToken: `a-${at}`, keyId: 'k2' })
    }
  })

  own.test(
    'is not stopped by what cannot be opened, nor by a key that is not there',
    async ({ db }) => {
      const [broken] = [await makeOauthToken(db, first), await makeOauthToken(db, first)]
      await makeOauthToken(db, openKeyRing({ keys: { k3: keys.k3 }, current: 'k3' }))
      await rowsOf(
        db,
        sql`update identity.oauth_tokens set access_ciphertext = set_byte(access_ciphertext, 30, 1 - get_byte(access_ciphertext, 30) % 2)
        where id = ${broken.id} returning id`,
      )
      const rotated = await rotateTokens(db, second, { limit: 1 })
      expect(rotated).toEqual({
        ...{ rotated: 1, remaining: 2, failures: [{ id: broken.id, reason: 'tampered' }] },
      })
    },
  )

  own.test.skipIf(!own.url)(
    'passes over what others are writing, and two at once share the work',
    async () => {
      const tokens: Awaited<ReturnType<typeof makeOauthToken>>[] = []
      for (let at = 0; at < 250; at += 1) {
        const { id: userId } =
          at % 50 === 0 ? await makeUser(own.root) : { id: tokens[at - 1]?.userId ?? '' }
        tokens.push(await makeOauthToken(own.root, first, { userId }))
      }
      const held = tokens[7]
      await own.root.transaction(async (tx) => {
        await rowsOf(
          tx,
          sql`select id from identity.oauth_tokens where id = ${held?.id} for update`,
        )
        const both = await Promise.all([
          rotateTokens(own.root, second),
          rotateTokens(own.root, second),
        ])
        expect(both.reduce((sum, { rotated }) => sum + rotated, 0)).toBe(249)
      })
      expect(await rotateTokens(own.root, second)).toEqual({
        rotated: 1,
        remaining: 0,
        failures: [],
      })
    },
  )
})
