import { createHmac } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ValidationError } from '../src/errors.ts'
import { signWebhook, type VerifySignatureOptions, verifySignature } from '../src/webhooks.ts'

const now = new Date('2026-01-01T00:00:00Z')
const at = now.getTime() / 1_000
const body = '{"id":"evt_1"}'
const secret = 'a-secret-of-the-endpoint'
const hmac = (text: string, key: string | Buffer = secret) => createHmac('sha256', key).update(text)

const stripe = (t: number, key = secret, text = body) =>
  `t=${t},v1=${hmac(`${t}.${text}`, key).digest('hex')}`

describe('verifySignature', () => {
  test('knows the signatures that the senders’ own documents show', () => {
    // docs.github.com, "Validating webhook deliveries": testing the webhook payload validation.
    expect(
      verifySignature({
        scheme: 'github',
        secrets: ["It's a Secret to Everybody"],
        body: 'Hello, World!',
        headers: {
          'x-hub-signature-256':
            'sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17',
        },
      }),
    ).toEqual({ ok: true })
    // The test vector of Standard Webhooks' own libraries.
    expect(
      verifySignature({
        scheme: 'standard',
        secrets: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
        body: '{"test": 2432232314}',
        headers: {
          'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
          'webhook-timestamp': '1614265330',
          'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
        },
        now: new Date(1_614_265_330_000),
      }),
    ).toEqual({ ok: true })
  })

  const verify = (header: string, options: Partial<VerifySignatureOptions> = {}) =>
    verifySignature({
      ...{ scheme: 'stripe', secrets: [secret], body, now },
      headers: { 'stripe-signature': header },
      ...options,
    }).problem ?? 'ok'

  test('takes a time within the tolerance only', () => {
    expect(verify(stripe(at))).toBe('ok')
    expect(verify(stripe(at - 300))).toBe('ok')
    expect(verify(stripe(at - 301))).toBe('expired')
    expect(verify(stripe(at + 301))).toBe('expired')
    expect(verify(stripe(at - 301), { toleranceMs: 400_000 })).toBe('ok')
  })

  test('takes any signature of any of the secrets', () => {
    const other = 'another-secret'
    const two = `${stripe(at, other)},v1=${hmac(`${at}.${body}`).digest('hex')}`
    expect(verify(stripe(at, other))).toBe('mismatch')
    expect(verify(stripe(at, other), { secrets: [secret, other] })).toBe('ok')
    expect(verify(two)).toBe('ok')
    expect(verify(stripe(at), { body: `${body} ` })).toBe('mismatch')
    expect(verify(stripe(at), { body: Buffer.from(body) })).toBe('ok')
    expect(verify(stripe(at).replace(String(at), String(at + 1)))).toBe('mismatch')
    expect(verify(stripe(at), { header: 'x-own', headers: { 'x-own': stripe(at) } })).toBe('ok')
  })

  test('says what is missing or malformed, and throws for nothing that a sender may send', () => {
    expect(verify('')).toBe('missing')
    expect(verify('', { headers: {} })).toBe('missing')
    for (const header of [
      'x',
      `t=${at}`,
      'v1=00',
      `t=a,v1=${'0'.repeat(64)}`,
      `t=${at},v1=${'g'.repeat(64)}`,
    ]) {
      expect(verify(header), header).toBe('malformed')
    }
    fc.assert(
      fc.property(
        fc.constantFrom('standard', 'stripe', 'github'),
        fc.record({
          'stripe-signature': fc.string(),
          'x-hub-signature-256': fc.oneof(fc.string(), fc.constant('sha256=')),
          'webhook-signature': fc.oneof(fc.string(), fc.array(fc.string())),
          'webhook-id': fc.string(),
          'webhook-timestamp': fc.string(),
        }),
        (scheme, headers) => {
          const secrets = ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']
          expect(verifySignature({ scheme, secrets, body, headers }).ok).toBe(false)
        },
      ),
    )
  })

  test('refuses secrets that can be none', () => {
    for (const secrets of [[], [''], ['short']]) {
      expect(() => verify(stripe(at), { secrets })).toThrow(ValidationError)
    }
    const bad = { scheme: 'standard', secrets: ['whsec_not base64!'] } as const
    expect(() => verify('', bad)).toThrow(ValidationError)
  })
})

describe('signWebhook', () => {
  const secrets = [
    'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA',
  ]

  test('makes what verifySignature takes, by each of the secrets', () => {
    const headers = signWebhook({ id: 'msg_1', body, secrets, now })
    for (const one of secrets) {
      expect(verifySignature({ scheme: 'standard', secrets: [one], body, headers, now }).ok).toBe(
        true,
      )
    }
    const moved = { ...headers, 'webhook-id': 'msg_2' }
    expect(verifySignature({ scheme: 'standard', secrets, body, headers: moved, now }).ok).toBe(
      false,
    )
  })

  test('takes no id that could be read as another part of what is signed', () => {
    expect(() => signWebhook({ id: 'a.1', body, secrets })).toThrow(ValidationError)
  })
})
