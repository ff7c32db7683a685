import { PlinthError } from './errors.ts'

/** A key that lets nobody in. Of a wrong secret and of a key that is not there it tells the same. */
export class ApiKeyError extends PlinthError {
  override readonly name = 'ApiKeyError'
  readonly reason: 'unknown' | 'expired' | 'revoked' | 'scope'
  /** For `scope`: which are required, and not the key's. */
  readonly missingScopes: readonly string[]

  constructor(reason: ApiKeyError['reason'], missingScopes: readonly string[] = []) {
    super(
      {
        unknown: 'the API key is not known',
        expired: 'the API key has expired; create another one',
        revoked: 'the API key was revoked, its organization archived or its user deactivated',
        scope: `the API key lacks ${missingScopes.join(', ')}; create one that has it`,
      }[reason],
    )
    this.reason = reason
    this.missingScopes = missingScopes
  }
}

/** A ciphertext that the key ring does not open. */
export class KeyRingError extends PlinthError {
  override readonly name = 'KeyRingError'
  readonly reason: 'unknown_key' | 'tampered' | 'malformed'
  /** Of the key that is missing. */
  readonly keyId: string | undefined

  constructor(reason: KeyRingError['reason'], keyId?: string) {
    super(
      {
        unknown_key: `the key ring has no key ${keyId}; open it with that key too`,
        tampered:
          'the ciphertext was changed, moved from another place, or sealed by another key of that id',
        malformed: 'the ciphertext is no envelope of a key ring',
      }[reason],
    )
    this.reason = reason
    this.keyId = keyId
  }
}
