/** Something of the database that a piece of SQL may name. */
export interface Thing {
  readonly kind: 'schema' | 'relation' | 'type' | 'function' | 'column' | 'key' | 'rows'
  readonly schema: string
  /** Of the relation, for a column, a key and rows; of the thing itself otherwise. */
  readonly name: string
  readonly column?: string
}

/** The names that a piece of SQL uses: `a.b.c` is one chain of three. */
interface Names {
  readonly chains: readonly (readonly string[])[]
  /** Each name by itself. */
  readonly words: ReadonlySet<string>
}

/** What a piece of SQL refers to, as far as its text tells. */
export interface References {
  /** What Postgres looks up when it runs the statement. */
  readonly outside: Names
  /** What stands in its strings and function bodies. */
  readonly inside: Names
  /** Whether it takes all columns of something, so that a new one changes it. */
  readonly isWide: boolean
}

const LEXEMES =
  /--[^\n]*|\/\*[\s\S]*?\*\/|'((?:[^']|'')*)'|\$(\w*)\$([\s\S]*?)\$\2\$|(?:"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*)(?:\s*\.\s*(?:"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*))*/gu
const NAME = /"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*/gu

const unquoted = (name: string) =>
  name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name.toLowerCase()

/** The parts of a name as it is written: `"App".posts` is App and posts. */
export const partsOf = (name: string): string[] =>
  [...name.matchAll(NAME)].map(([part]) => unquoted(part))

function namesOf(texts: readonly string[]): Names & { strings: string[] } {
  const chains: string[][] = []
  const strings: string[] = []
  for (const text of texts) {
    for (const [lexeme, quoted, , body] of text.matchAll(LEXEMES)) {
      if (quoted !== undefined) strings.push(quoted.replaceAll("''", "'"))
      else if (body !== undefined) strings.push(body)
      else if (!/^(--|\/\*)/.test(lexeme)) chains.push(partsOf(lexeme))
    }
  }
  return { chains, strings, words: new Set(chains.flat()) }
}

const cache = new Map<string, References>()

/** Reads the names in a piece of SQL. */
export function referencesOf(text: string): References {
  const known = cache.get(text)
  if (known) return known
  const { strings, ...outside } = namesOf([text])
  const first = namesOf(strings)
  const nested = namesOf(first.strings)
  const inside = {
    chains: [...first.chains, ...nested.chains],
    words: new Set([...first.words, ...nested.words]),
  }
  // The body of an SQL function is looked up as the statement itself is.
  const isSqlFunction = /\blanguage\s+'?sql\b/i.test(text)
  const references = {
    outside: isSqlFunction
      ? {
          chains: [...outside.chains, ...inside.chains],
          words: new Set([...outside.words, ...inside.words]),
        }
      : outside,
    inside,
    isWide: /\*/.test(
      (isSqlFunction ? text : text.replace(/'(?:[^']|'')*'|\$(\w*)\$[\s\S]*?\$\1\$/g, '')).replace(
        /count\s*\(\s*\*\s*\)/gi,
        '',
      ),
    ),
  }
  if (cache.size > 5_000) cache.clear()
  cache.set(text, references)
  return references
}

const has = ({ chains }: Names, { schema, name }: Thing) =>
  chains.some((chain) => chain.some((part, at) => part === schema && chain[at + 1] === name))

const hasAlone = ({ words, chains }: Names, { name }: Thing) =>
  words.has(name) && chains.some(([first]) => first === name)

/**
 * How surely a piece of SQL refers to a thing: `sure` by its full name, `maybe` by its bare name or from
 * within a string, where a name may mean something else.
 */
export function refersTo(references: References, thing: Thing): 'sure' | 'maybe' | undefined {
  const { outside, inside, isWide } = references
  if (thing.kind === 'schema') {
    return outside.chains.some(([first]) => first === thing.name) ? 'sure' : undefined
  }
  const strength = nameStrength(references, thing)
  if (thing.kind !== 'column' || !strength) return strength
  const column = thing.column ?? ''
  if (outside.words.has(column) || isWide) return strength
  return inside.words.has(column) ? 'maybe' : undefined
}

function nameStrength({ outside, inside }: References, thing: Thing) {
  if (has(outside, thing)) return 'sure'
  if (hasAlone(outside, thing)) return thing.schema === 'public' ? 'sure' : 'maybe'
  return has(inside, thing) || hasAlone(inside, thing) ? 'maybe' : undefined
}
