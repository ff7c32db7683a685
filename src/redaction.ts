/** What stands in place of a secret. */
export const REDACTED = '[redacted]'

/**
 * Names of fields and headers whose values are secrets, in lower case and without what separates words. A
 * name is secret that holds one of them: `password` also makes `db_password` and `PasswordHash` so.
 */
export const SECRET_NAMES: readonly string[] = [
  ...['password', 'passwd', 'passphrase', 'passcode', 'credential', 'authorization', 'cookie'],
  ...[
    'apikey',
    'privatekey',
    'secretkey',
    'accesskey',
    'accountkey',
    'signingkey',
    'encryptionkey',
    'masterkey',
  ],
  ...['connectionstring', 'sessionid', 'bearer', 'clientsecret'],
]

/** Secret at the end of a name only, so that `token_count` and `secretary` are none. */
const SECRET_ENDINGS = ['token', 'secret', 'secrets', 'jwt', 'pwd', 'pepper']

/** Secret as the whole of a name only. */
const SECRET_WORDS = new Set([
  'auth',
  'otp',
  'pin',
  'cvv',
  'cvc',
  'csc',
  'ssn',
  'sid',
  'pass',
  'pw',
])

export interface RedactOptions {
  /** Further names of secrets, as in SECRET_NAMES. */
  names?: readonly string[]
}

/** How deep an object is looked through; what lies deeper is taken for a secret. */
const MAX_DEPTH = 32

/**
 * What JSON makes of a value, with secrets replaced by `[redacted]`: values under the name of a secret,
 * whatever they are (but for null and booleans), and within texts what looks like one. Redacting twice is
 * redacting once. Takes time in proportion to the value's size.
 */
export const redact = (value: unknown, { names = [] }: RedactOptions = {}): unknown =>
  redactValue(value, '', [...SECRET_NAMES, ...names.map(compact)], [])

/** The JSON of an object with secrets replaced as `redact` does. The same text, if there is none. */
export function redactJson(json: string, options: RedactOptions = {}): string {
  if (!options.names?.length && !HINT.test(json)) return json
  return JSON.stringify(redact(JSON.parse(json), options))
}

function redactValue(
  given: unknown,
  key: string,
  names: readonly string[],
  above: readonly object[],
): unknown {
  const value = plain(given, key)
  if (typeof value === 'string') return redactText(value)
  if (typeof value === 'number') return isCard(String(value)) ? REDACTED : value
  if (typeof value !== 'object' || value === null) return value
  if (above.length === MAX_DEPTH || above.includes(value)) return REDACTED
  const within = [...above, value]
  if (Array.isArray(value))
    return value.map((item, at) => redactValue(item, `${at}`, names, within))
  // Not assigned one by one: __proto__ would be no field then.
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [
      redactText(name),
      isSecretName(name, names) && item != null && typeof item !== 'boolean'
        ? REDACTED
        : redactValue(item, name, names, within),
    ]),
  )
}

/** What JSON would make of a value that says so itself. */
function plain(value: unknown, key: string): unknown {
  const hasOwn = typeof value === 'object' && value !== null && 'toJSON' in value
  return hasOwn && typeof value.toJSON === 'function' ? value.toJSON(key) : value
}

const compact = (name: string) => name.toLowerCase().replace(/[^a-z0-9]/g, '')

function isSecretName(name: string, names: readonly string[]): boolean {
  const short = compact(name)
  return (
    SECRET_WORDS.has(short) ||
    SECRET_ENDINGS.some((ending) => short.endsWith(ending)) ||
    names.some((secret) => short.includes(secret))
  )
}

/** A secret that is named in a text, and what quotes it. */
const named = (quote: string, value: string, after = `["']?`) =>
  new RegExp(
    String.raw`((?:password|passwd|passphrase|pwd|secret|token|jwt|(?:api|private|secret|access|account)[_-]?key)${after}\s{0,4}[=:]\s{0,4}${quote})${value}`,
    'gi',
  )

/**
 * Secrets by their shape. No two parts of a pattern that repeat can take the same characters, and one that
 * runs on begins only where a run of them begins: so each goes through a text once.
 */
const SHAPES: readonly [RegExp, string][] = [
  // Keys and certificates; one without an end is secret to the end.
  [/-----BEGIN [A-Z0-9 ]{1,40}-----[\s\S]*?(?:-----END [A-Z0-9 ]{1,40}-----|$)/g, REDACTED],
  // Who a URL logs in as, up to the last @ before its path.
  [/(?<=:\/\/)[^\s/?#@:"'<>]*:[^\s/?#"'<>]+@/g, `${REDACTED}@`],
  // JSON Web Tokens, also without a signature.
  [/(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?/g, REDACTED],
  // plinth's own keys and invitations.
  [/(?<![\w-])pl[ki]_[0-9a-f]{32}_[\w-]{20,}/g, REDACTED],
  // OpenAI, Anthropic and others; Stripe; webhooks' own.
  [/(?<![\w-])sk-[\w-]{16,}/g, REDACTED],
  [/(?<!\w)(?:[srp]k_(?:live|test)|whsec|whsk)_[A-Za-z0-9+/=]{8,}/g, REDACTED],
  // AWS, GitHub, GitLab, Slack, Google, npm, SendGrid, Hugging Face.
  [/(?<!\w)A[KS]IA[A-Z0-9]{16}(?!\w)/g, REDACTED],
  [/(?<!\w)(?:gh[pousr]_|github_pat_|npm_|hf_)\w{20,}/g, REDACTED],
  [/(?<![\w-])(?:glpat|xox[abeoprs]|xapp)-[\w-]{10,}/g, REDACTED],
  [/(?<![\w-])(?:AIza[\w-]{30,}|ya29\.[\w-]{10,})/g, REDACTED],
  [/(?<![\w-])SG\.[\w-]{16,}\.[\w-]{16,}/g, REDACTED],
  // Groq, Replicate, xAI, Perplexity, NVIDIA, Tavily, Pinecone, LangSmith; Supabase, Shopify, DigitalOcean, Docker.
  [
    /(?<![\w-])(?:gsk_|r8_|xai-|pplx-|nvapi-|tvly-|pcsk_|lsv2_|sbp_|sb_secret_|shpat_|dop_v1_|dckr_pat_)[\w-]{20,}/g,
    REDACTED,
  ],
  [/(?<=hooks\.slack\.com\/services\/)[A-Za-z0-9/]{10,}/g, REDACTED],
  [/(?<![a-z0-9])(bearer)\s{1,8}[\w.~+/=-]{8,}/gi, `$1 ${REDACTED}`],
  // A word of prose has neither a digit nor a capital in it.
  [
    /(?<![A-Za-z0-9])([Bb]asic|BASIC)\s{1,8}(?=[a-z]{0,40}[A-Z0-9+/=])[\w+/=]{8,}/g,
    `$1 ${REDACTED}`,
  ],
  // Headers: the rest of the line, or of the quoted text.
  [/((?:authorization|cookie)["']?\s{0,4}[=:]\s{0,4}["']?)[^\s"'][^\r\n"']*/gi, `$1${REDACTED}`],
  // name=value and name: value, as in messages, queries and connection strings: up to the closing quote, also
  // of JSON within JSON, or to the end of the word.
  [named(`"`, String.raw`(?:[^"\\\r\n]|\\.)+(?=")`), `$1${REDACTED}`],
  [named(`'`, String.raw`(?:[^'\\\r\n]|\\.)+(?=')`), `$1${REDACTED}`],
  [named(String.raw`\\"`, String.raw`[^"\\\r\n]+`, String.raw`\\"`), `$1${REDACTED}`],
  [named(`["']?`, `[^\\s"'&;,]+`), `$1${REDACTED}`],
]

/** Between the parts of a name, as far as names are found without reading them as JSON. */
const GAP = String.raw`(?:[^a-z0-9"]|\\"){0,3}`

/** Whether there may be a secret at all, in a text or in JSON: most are done after this. */
const HINT = new RegExp(
  [
    `pass${GAP}(?:word|wd|phrase|code)|secret|token(?!s)|authorization|cookie|credential|jwt|pwd|bearer|basic|pepper`,
    `(?:api|private|access|account|signing|encryption|master)${GAP}key|connection${GAP}string|session${GAP}id`,
    `"${GAP}(?:${[...SECRET_WORDS].map((word) => [...word].join(GAP)).join('|')})${GAP}"`,
    String.raw`:\/\/|-----BEGIN|eyJ|pl[ki]_|sk-|[srp]k_|whs|A[KS]IA|gh[pousr]_|_pat_|npm_|hf_|glpat|xox|xapp|AIza|ya29|SG\.|gsk_|r8_|xai-|pplx-|nvapi-|tvly-|pcsk_|lsv2_|sbp_|sb_secret_|shpat_|dop_v1_|dckr_pat_`,
    String.raw`\d(?:[ -]?\d){12}`,
  ].join('|'),
  'i',
)

/** A text with what looks like a secret in it replaced by `[redacted]`. */
export function redactText(text: string): string {
  if (!HINT.test(text)) return text
  const shaped = SHAPES.reduce((left, [shape, instead]) => left.replace(shape, instead), text)
  const left = shaped.replace(/\d(?:[ -]?\d){12,}/g, redactCards)
  // Behind the number of a card begins what was no key, within a word.
  return left === shaped ? left : redactText(left)
}

/** A run of digits, without the numbers of cards in it that begin and end with a group. */
function redactCards(run: string): string {
  const groups = run.split(/([ -])/)
  let kept = ''
  for (let at = 0; at < groups.length; at += 2) {
    let digits = ''
    let last = -1
    for (let to = at; to < groups.length && digits.length < 19; to += 2) {
      digits += groups[to]
      if (isCard(digits)) last = to
    }
    kept += last < 0 ? groups[at] : REDACTED
    if (last >= 0) at = last
    kept += groups[at + 1] ?? ''
  }
  return kept
}

/** How the numbers of cards begin (ISO/IEC 7812), and how long they are then. */
const CARDS =
  /^(?:4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|6(?:011|[245]\d\d)\d{12,15})$/

/** Whether digits are the number of a card: by its beginning, its length, and Luhn's check digit. */
function isCard(digits: string): boolean {
  if (digits.length < 13 || digits.length > 19 || !CARDS.test(digits)) return false
  let sum = 0
  for (let at = 1; at <= digits.length; at += 1) {
    const digit = Number(digits.at(-at)) * (at % 2 === 0 ? 2 : 1)
    sum += digit > 9 ? digit - 9 : digit
  }
  return sum % 10 === 0
}
