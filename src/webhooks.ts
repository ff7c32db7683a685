import { createHmac, timingSafeEqual } from 'node:crypto'
import { ValidationError } from './errors.ts'
import { checkInteger, checkList, checkOneOf, checkText } from './validation.ts'

const SCHEMES = ['standard', 'stripe', 'github'] as const

/**
 * How a sender signs, each by HMAC-SHA-256:
 * `standard`: Standard Webhooks (standardwebhooks.com), `webhook-id`, `webhook-timestamp` and
 * `webhook-signature: v1,<base64>` over `<id>.<timestamp>.<body>`;
 * `stripe`: `stripe-signature: t=<seconds>,v1=<hex>` over `<timestamp>.<body>` (docs.stripe.com/webhooks);
 * `github`: `x-hub-signature-256: sha256=<hex>` over the body, without a time
 * (docs.github.com, "Validating webhook deliveries").
 */
export type WebhookScheme = (typeof SCHEMES)[number]

/** As Node's `req.headers` or `Object.fromEntries(request.headers)` has them: names in lower case. */
export type WebhookHeaders = Readonly<Record<string, string | readonly string[] | undefined>>

export interface VerifySignatureOptions {
  scheme: WebhookScheme
  /** As the sender shows them; several while one takes the place of another. */
  secrets: readonly string[]
  /** As it came, byte by byte: JSON that was read and written again is another text. */
  body: string | Uint8Array
  headers: WebhookHeaders
  /** Where the signature is, for senders that use a scheme under a name of their own. */
  header?: string
  /** How far the time of a signature may be from now, in milliseconds; five minutes unless said. */
  toleranceMs?: number
  /** The time to judge by; this machine's unless said. */
  now?: Date
}

/** What a signature proves, or why it proves nothing. */
export type Verification =
  | { readonly ok: true; readonly problem?: undefined }
  | { readonly ok: false; readonly problem: 'missing' | 'malformed' | 'expired' | 'mismatch' }

const TOLERANCE_MS = 300_000
const MAX_SECRETS = 10
const HEADERS = {
  standard: 'webhook-signature',
  stripe: 'stripe-signature',
  github: 'x-hub-signature-256',
}

/**
 * Checks who has sent a webhook. Any signature by any of the secrets will do; all are compared, each in
 * constant time.
 *
 * A signature of `github` has no time, so it can be sent again: record its delivery under the sender's id.
 *
 * @throws {ValidationError} for a secret that can be none; what the sender controls is never thrown for.
 */
export function verifySignature({
  scheme,
  secrets,
  body,
  headers,
  header = HEADERS[scheme],
  toleranceMs = TOLERANCE_MS,
  now = new Date(),
}: VerifySignatureOptions): Verification {
  checkOneOf('scheme', scheme, SCHEMES)
  checkInteger('toleranceMs', toleranceMs)
  const keys = readSecrets(scheme, secrets)
  const signed = single(headers[header])
  if (signed === undefined || signed === '') return { ok: false, problem: 'missing' }
  const read = readers[scheme](signed, headers)
  if (!read || read.signatures.length === 0) return { ok: false, problem: 'malformed' }
  const { signatures, timestamp, prefix } = read
  if (timestamp !== undefined && Math.abs(now.getTime() - timestamp * 1_000) > toleranceMs) {
    return { ok: false, problem: 'expired' }
  }
  let isSigned = false
  for (const key of keys) {
    const expected = createHmac('sha256', key).update(prefix).update(body).digest()
    for (const given of signatures.slice(0, MAX_SECRETS)) {
      const isThis = given.length === expected.length && timingSafeEqual(given, expected)
      isSigned = isThis || isSigned
    }
  }
  return isSigned ? { ok: true } : { ok: false, problem: 'mismatch' }
}

interface Signed {
  signatures: Buffer[]
  /** In seconds. */
  timestamp?: number
  /** What stands before the body in what is signed. */
  prefix: string
}

const single = (value: string | readonly string[] | undefined) =>
  typeof value === 'string' || value === undefined ? value : value.join(' ')

const seconds = (text: string | undefined) =>
  text !== undefined && /^\d{1,12}$/.test(text) ? Number(text) : undefined

const hex = (text: string) => (/^[0-9a-f]{64}$/i.test(text) ? [Buffer.from(text, 'hex')] : [])

const readers: Record<
  WebhookScheme,
  (signed: string, headers: WebhookHeaders) => Signed | undefined
> = {
  standard: (signed, headers) => {
    const id = single(headers['webhook-id'])
    const text = single(headers['webhook-timestamp'])
    const timestamp = seconds(text)
    if (!id || timestamp === undefined) return
    const signatures = signed
      .split(' ', MAX_SECRETS)
      .flatMap((one) => (/^v1,[\w+/]{43}=$/.test(one) ? [Buffer.from(one.slice(3), 'base64')] : []))
    return { signatures, timestamp, prefix: `${id}.${text}.` }
  },
  stripe: (signed) => {
    const parts = signed.split(',', 20).map((part) => part.trim().split('=', 2))
    const text = parts.find(([name]) => name === 't')?.[1]
    const timestamp = seconds(text)
    if (timestamp === undefined) return
    const signatures = parts.flatMap(([name, value = '']) => (name === 'v1' ? hex(value) : []))
    return { signatures, timestamp, prefix: `${text}.` }
  },
  github: (signed) => ({
    signatures: signed.startsWith('sha256=') ? hex(signed.slice('sha256='.length)) : [],
    prefix: '',
  }),
}

/** The keys that secrets stand for: of Standard Webhooks, what follows `whsec_` is base64. */
function readSecrets(scheme: WebhookScheme, secrets: readonly string[]): Buffer[] {
  checkList('secrets', secrets, { min: 1, max: MAX_SECRETS })
  return secrets.map((secret, at) => {
    checkText(`secrets[${at}]`, secret, { min: 8 })
    if (scheme !== 'standard') return Buffer.from(secret)
    const text = secret.replace(/^whsec_/, '')
    if (!/^[\w+/]{11,}={0,2}$/.test(text)) {
      throw new ValidationError(`secrets[${at}]`, 'must be base64, after whsec_ or alone')
    }
    return Buffer.from(text, 'base64')
  })
}

export interface SignWebhookOptions {
  /** The same at every attempt, for the receiver to know it by: the delivery's id. */
  id: string
  body: string
  /** The first one that a receiver knows will do; several while one takes the place of another. */
  secrets: readonly string[]
  /** When it is sent; this machine's time unless said. */
  now?: Date
}

/** The headers of a webhook that is sent, by Standard Webhooks. Sign each attempt anew. @throws {ValidationError} */
export function signWebhook({
  id,
  body,
  secrets,
  now = new Date(),
}: SignWebhookOptions): Record<'webhook-id' | 'webhook-timestamp' | 'webhook-signature', string> {
  checkText('id', id, { max: 200 })
  // It is signed together with what follows it, behind a full stop.
  if (/[.\s]/.test(id)) throw new ValidationError('id', 'must have no full stop and no space in it')
  const timestamp = String(Math.floor(now.getTime() / 1_000))
  const signatures = readSecrets('standard', secrets).map((key) => {
    const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`)
    return `v1,${signature.digest('base64')}`
  })
  return {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signatures.join(' '),
  }
}
