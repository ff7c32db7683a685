import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { REDACTED, redact, redactJson, redactText } from '../src/redaction.ts'

const HEX = '0123456789abcdef'.repeat(2)
const SECRET = 'Zq3v8Kp1Wm5Xt7Rb9Nc2Yd4Fg6Hj0Ls1'

/** A text that is a secret by its shape, with what is to be left of it. */
const SHAPED: Record<string, [string, string]> = {
  bearer: [
    `Authorization failed for Bearer ${SECRET}`,
    `Authorization failed for Bearer ${REDACTED}`,
  ],
  basic: [`Basic dXNlcjpwYXNzd29yZA==`, `Basic ${REDACTED}`],
  key: [`key plk_${HEX}_${HEX}_${SECRET} refused`, `key ${REDACTED} refused`],
  invitation: [`pli_${HEX}_${SECRET}`, REDACTED],
  openai: [`Incorrect API key: sk-proj-${SECRET}.`, `Incorrect API key: ${REDACTED}.`],
  stripe: [`sk_live_${SECRET}, rk_test_${SECRET}`, `${REDACTED}, ${REDACTED}`],
  webhook: [`whsec_${SECRET}=`, REDACTED],
  jwt: ['eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.dozjgNryP4J3jVmNHl0w', REDACTED],
  aws: ['AKIAIOSFODNN7EXAMPLE.', `${REDACTED}.`],
  github: [`ghp_${SECRET} github_pat_11${SECRET}`, `${REDACTED} ${REDACTED}`],
  slack: ['xoxb-1234567890-abcdefghij', REDACTED],
  google: [`AIza${SECRET}abc ya29.${SECRET}`, `${REDACTED} ${REDACTED}`],
  models: [
    `gsk_${SECRET} xai-${SECRET} pplx-${SECRET} r8_${SECRET} nvapi-${SECRET} tvly-dev-${SECRET}`,
    Array(6).fill(REDACTED).join(' '),
  ],
  stores: [
    `pcsk_${SECRET} lsv2_pt_${SECRET} sbp_${SECRET} sb_secret_${SECRET} dckr_pat_${SECRET}`,
    Array(5).fill(REDACTED).join(' '),
  ],
  azure: [
    `AccountName=logs;AccountKey=${SECRET}==;EndpointSuffix=core.windows.net`,
    `AccountName=logs;AccountKey=${REDACTED};EndpointSuffix=core.windows.net`,
  ],
  pem: [
    `a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb`,
    `a\n${REDACTED}\nb`,
  ],
  'pem without an end': [`-----BEGIN PRIVATE KEY-----\nMIIE`, REDACTED],
  url: [
    'connect postgres://app:p@ss:word@db.example.com:5432/app?x=a@b',
    `connect postgres://${REDACTED}@db.example.com:5432/app?x=a@b`,
  ],
  header: [
    `authorization: token abc\nhost: a\nCookie: sid=1; other=2\nx: 1`,
    `authorization: ${REDACTED}\nhost: a\nCookie: ${REDACTED}\nx: 1`,
  ],
  'name and value': [
    `password=hunter2&user=ann api_key: 'abc' {"token":"x1","n":1}`,
    `password=${REDACTED}&user=ann api_key: '${REDACTED}' {"token":"${REDACTED}","n":1}`,
  ],
  'name and quoted value': [
    `{"password":"correct horse, \\"battery\\"","n":1} token: 'a b' and on`,
    `{"password":"${REDACTED}","n":1} token: '${REDACTED}' and on`,
  ],
  'name and value in JSON within JSON': [
    String.raw`"{\"api_key\":\"a b\",\"n\":1}"`,
    String.raw`"{\"api_key\":\"${REDACTED}\",\"n\":1}"`,
  ],
  card: ['paid with 4111 1111 1111 1111 12/29', `paid with ${REDACTED} 12/29`],
  'card before a key': [`4111111111111111pcsk_${SECRET}`, `${REDACTED}${REDACTED}`],
  'card behind digits': ['no 12 5555-5555-5555-4444.', `no 12 ${REDACTED}.`],
}

/** Texts that are none. */
const HARMLESS = [
  'a basic understanding of tokens',
  'the bearer of news',
  'input_tokens 12, secretary, author',
  '01932018-4000-7000-8123-456789012345',
  '1732180000000000, 4111111111111112',
  'https://example.com:8080/a@b?c=d:e@f',
  'mail ann@example.com',
  'sk-ip',
  'task-force-of-the-long-running-project',
]

describe('redactText', () => {
  test.each(Object.entries(SHAPED))('finds: %s', (_, [text, left]) => {
    expect(redactText(text)).toBe(left)
  })

  test.each(HARMLESS)('leaves %j', (text) => {
    expect(redactText(text)).toBe(text)
  })

  const fragments = [
    ...Object.values(SHAPED).flat(),
    ...HARMLESS,
    ...[REDACTED, 'token', 'token=', 'password', ': ', '"', "'", ' ', '=', '\n', '://', '@', 'a:b'],
    ...['Bearer', 'authorization', '-', '4111', '1', 'eyJ', '.', '_', 'redacted]', '[', 'basic '],
  ]

  test('once is as often as one likes', () => {
    const texts = fc.array(fc.oneof(fc.constantFrom(...fragments), fc.string({ maxLength: 5 })))
    fc.assert(
      fc.property(texts, (parts) => {
        const once = redactText(parts.join(''))
        expect(redactText(once)).toBe(once)
      }),
      { numRuns: 3_000 },
    )
  })

  const MEGABYTE = 1_000_000
  const HOSTILE = [
    ...['a', '-', '1', '1 ', '1-', ' ', '=', '.', '/', ':', '@', '"', '\n'],
    ...['eyJ', '-eyJ', 'eyJaaaaaaaaaa.', 'eyJ.eyJ', 'sk-', '-sk-', 'SG.', 'ya29.', 'AIza', 'xoxb-'],
    ...[
      '://',
      '://a:',
      '://a:a@',
      '://:',
      'a:a@',
      'token',
      'token=',
      'token:  ',
      'token="',
      'token="a',
      String.raw`token=\"`,
      String.raw`token="\a`,
      "token='a",
      'password ',
    ],
    ...['bearer ', 'bearer  a', 'basic a', 'basic ', 'authorization:', 'cookie: "', 'cookie=\n'],
    ...['-----BEGIN ', '-----BEGIN A-----', '-----BEGIN A-----\n-----END A', '-----END A-----'],
    ...[
      '4111 ',
      '41111111',
      'plk_',
      `plk_${HEX}_`,
      'gh',
      'ghp_',
      'AKIA',
      'hooks.slack.com/services/',
    ],
    ...[`token=${REDACTED}`, `cookie=${REDACTED}`, 'api_', 'api-key', 'whsec_', 'sk_live_'],
  ]

  test.each(HOSTILE)(
    'goes through a megabyte of %j once',
    (unit) => {
      const text = `token ${unit.repeat(MEGABYTE / unit.length)}`
      for (const hostile of [
        text,
        `${text}\u0000`,
        `bearer ${text}`,
        `eyJ${text}`,
        `://x:${text}`,
      ]) {
        const startedAt = performance.now()
        redactText(hostile)
        // A pattern that goes back over what it has read takes minutes: this is no measure of speed.
        expect(performance.now() - startedAt).toBeLessThan(20_000)
      }
    },
    120_000,
  )
})

describe('redact', () => {
  test('takes what is under the name of a secret, whatever it is and however the name is written', () => {
    const secret = { a: 1 }
    for (const name of [
      ...['password', 'dbPassword', 'PASSWORD_HASH', 'x-api-key', 'apiKey', 'Authorization'],
      ...['Set-Cookie', 'accessToken', 'refresh_token', 'csrftoken', 'clientSecret', 'auth', 'pin'],
      ...['private-key', 'sessionId', 'credentials', 'connection_string'],
    ]) {
      expect(redact({ [name]: secret, b: [{ [name]: 'abc' }, { [name]: 12 }] }), name).toEqual({
        [name]: REDACTED,
        b: [{ [name]: REDACTED }, { [name]: REDACTED }],
      })
      expect(redact({ [name]: null, b: { [name]: true } })).toEqual({
        [name]: null,
        b: { [name]: true },
      })
    }
    for (const name of [
      'tokens',
      'input_tokens',
      'tokenCount',
      'secretary',
      'author',
      'key',
      'pinned',
    ]) {
      expect(redact({ [name]: 'abc' }), name).toEqual({ [name]: 'abc' })
    }
    expect(redact({ nickname: 'Bo' }, { names: ['nick_name'] })).toEqual({ nickname: REDACTED })
  })

  test('finds secrets in texts, keys and numbers, and leaves all else', () => {
    const at = new Date('2026-01-01T00:00:00Z')
    const value = { a: ['Bearer abcdefghij', { b: 4111111111111111 }], c: at, d: [1, null, false] }
    expect(redact(value)).toEqual({
      ...{ a: [`Bearer ${REDACTED}`, { b: REDACTED }], c: at.toISOString(), d: [1, null, false] },
    })
    expect(redact({ [`sk-${SECRET}`]: 1 })).toEqual({ [REDACTED]: 1 })
    expect(redact({ toJSON: () => ({ password: 'a' }) })).toEqual({ password: REDACTED })
    for (const name of ['p w', 'P"w', 'p-i.n']) {
      expect(redactJson(JSON.stringify({ [name]: 'a' }))).toBe(JSON.stringify({ [name]: REDACTED }))
    }
    expect(redactJson('{"__proto__":{"token":"a"},"b":1}')).toBe(
      `{"__proto__":{"token":"${REDACTED}"},"b":1}`,
    )
  })

  test('ends where an object goes round, or too deep', () => {
    const round: Record<string, unknown> = { a: 1 }
    round.self = round
    expect(redact(round)).toEqual({ a: 1, self: REDACTED })
    const deep = JSON.parse(`${'{"a":'.repeat(1_000)}"x"${'}'.repeat(1_000)}`)
    expect(JSON.stringify(redact(deep))).not.toContain('x')
  })

  test('of JSON is the same, and once is as often as one likes', () => {
    const key = fc.oneof(
      fc.constantFrom('password', 'token', 'a', 'x-api-key', 'n', '__proto__', 'pin', 'toString'),
      fc.string({ maxLength: 3 }),
    )
    const leaf = fc.oneof(
      fc.constantFrom(...Object.values(SHAPED).flat(), 4111111111111111, 12, null, true),
      fc.string(),
    )
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof(
        { depthSize: 'small' },
        leaf,
        fc.array(tie('tree'), { maxLength: 3 }),
        fc.dictionary(key, tie('tree'), { maxKeys: 4 }),
      ),
    }))
    fc.assert(
      fc.property(tree, (value) => {
        const json = JSON.stringify(value)
        const once = redact(value)
        expect(redact(once)).toEqual(once)
        expect(redactJson(json)).toBe(JSON.stringify(once))
      }),
      { numRuns: 2_000 },
    )
  })
})
