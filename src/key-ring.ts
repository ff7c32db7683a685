import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  type KeyObject,
  randomBytes,
} from 'node:crypto'
import { KeyRingError, ValidationError } from './errors.ts'
import { checkText } from './validation.ts'

/** What a ciphertext is for, from the outside in. It opens under the same words only. */
export type SealContext = readonly string[]

/** Keys that seal texts and open them again. Printing one shows no key. */
export interface KeyRing {
  /** The key that seals. */
  readonly current: string
  /** The keys that open. */
  readonly ids: readonly string[]
  /** Returns an envelope: the ciphertext, and all that opening it needs but the key. Never twice the same. */
  seal(plaintext: string, context: SealContext): Buffer
  /** Returns the text of an envelope. @throws {KeyRingError} */
  open(envelope: Uint8Array, context: SealContext): string
}

export interface OpenKeyRingOptions {
  /** By an id that is kept with what it seals: 32 random bytes, or their base64. */
  keys: Readonly<Record<string, Uint8Array | string>>
  /** The id of the key that seals. The others only open. */
  current: string
}

/** The first byte of an envelope. Behind it: the id's length, the id, the nonce, the tag, the ciphertext. */
const VERSION = 1
const KEY_BYTES = 32
// NIST SP 800-38D: of random nonces of 96 bits, at most 2^32 under one key.
const NONCE_BYTES = 12
const TAG_BYTES = 16

/**
 * Opens a ring of keys for AES-256-GCM. What an envelope is for is authenticated with it, so that one that
 * was moved to another place, or bears another key's id, does not open.
 *
 * @throws {ValidationError} for a key that is not 32 bytes long, and a `current` that is none of them.
 */
export function openKeyRing({ keys, current }: OpenKeyRingOptions): KeyRing {
  const ring = new Map(Object.entries(keys).map(([id, key]) => [id, readKey(id, key)]))
  const sealing = ring.get(current)
  if (!sealing) throw new ValidationError('current', 'must be the id of one of the keys')
  return {
    current,
    ids: [...ring.keys()],
    seal: (plaintext, context) => seal(current, sealing, plaintext, context),
    open: (envelope, context) => {
      const parts = readEnvelope(Buffer.from(envelope))
      const key = parts && ring.get(parts.id)
      if (!parts) throw new KeyRingError('malformed')
      if (!key) throw new KeyRingError('unknown_key', parts.id)
      return open(key, parts, context)
    },
  }
}

function readKey(id: string, key: Uint8Array | string): KeyObject {
  checkText('keys', id, { max: 100 })
  // Both alphabets of base64 are read alike.
  const bytes =
    typeof key !== 'string' ? key : /^[\w+/-]{43}=?$/.test(key) && Buffer.from(key, 'base64')
  if (!(bytes instanceof Uint8Array) || bytes.length !== KEY_BYTES) {
    throw new ValidationError(`keys.${id}`, `must be ${KEY_BYTES} bytes, or their base64`)
  }
  return createSecretKey(bytes)
}

function seal(id: string, key: KeyObject, plaintext: string, context: SealContext): Buffer {
  const name = Buffer.from(id)
  const head = Buffer.concat([Buffer.from([VERSION, name.length]), name, randomBytes(NONCE_BYTES)])
  const cipher = createCipheriv('aes-256-gcm', key, head.subarray(-NONCE_BYTES))
  cipher.setAAD(authenticated(head, context))
  const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()])
  return Buffer.concat([head, cipher.getAuthTag(), ciphertext])
}

interface Envelope {
  id: string
  head: Buffer
  tag: Buffer
  ciphertext: Buffer
}

function open(key: KeyObject, { head, tag, ciphertext }: Envelope, context: SealContext): string {
  const decipher = createDecipheriv('aes-256-gcm', key, head.subarray(-NONCE_BYTES), {
    authTagLength: TAG_BYTES,
  })
  decipher.setAAD(authenticated(head, context))
  decipher.setAuthTag(tag)
  try {
    return Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('utf8')
  } catch {
    throw new KeyRingError('tampered')
  }
}

function readEnvelope(bytes: Buffer): Envelope | undefined {
  const [version, length = 0] = bytes
  const headBytes = 2 + length + NONCE_BYTES
  if (version !== VERSION || length === 0 || bytes.length < headBytes + TAG_BYTES) return
  return {
    id: bytes.toString('utf8', 2, 2 + length),
    head: bytes.subarray(0, headBytes),
    tag: bytes.subarray(headBytes, headBytes + TAG_BYTES),
    ciphertext: bytes.subarray(headBytes + TAG_BYTES),
  }
}

/** As JSON, in which no two lists of words are the same text. */
const authenticated = (head: Buffer, context: SealContext) =>
  Buffer.concat([head, Buffer.from(JSON.stringify(context))])
