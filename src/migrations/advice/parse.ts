import type { AlterTableCmd, Node, ParseResult, ScanResult, SqlError } from 'libpg-query'
import { MigrationError } from '../../errors.ts'

/** What a comment above a statement asks of the migrator. */
type Directive = 'concurrently' | 'step'

/** One SQL statement of a migration. */
export interface Statement {
  /** The index of the text that it is in. */
  readonly index: number
  /** The line of that text on which it begins, from 1. */
  readonly line: number
  /** Without the comments above it and the semicolon. */
  readonly sql: string
  /** The comments above it, line by line. */
  readonly comments: readonly string[]
  readonly directives: readonly Directive[]
  readonly node: Node
  /** Whether another statement of the same text comes before it. */
  readonly isJoined: boolean
}

/** A text that Postgres's own parser refuses. */
interface SyntaxProblem {
  readonly index: number
  readonly line: number
  readonly message: string
}

/** What drizzle-kit writes between two statements. */
export const BREAKPOINT = '--> statement-breakpoint'

/** The statements of a file, as breakpoints separate them, without the mark that some editors put first. */
export const textsOf = (sql: string): string[] => sql.replace(/^\uFEFF/, '').split(BREAKPOINT)

/** What a token is: where it begins and ends, in bytes, and how it is written. */
type Token = ScanResult['tokens'][number]

export interface Parser {
  parse(sql: string): ParseResult
  scan(sql: string): Token[]
}

let loading: Promise<Parser> | undefined

/** Postgres's own parser, compiled to WebAssembly; loaded once. */
export function loadParser(): Promise<Parser> {
  loading ??= import('libpg-query').then(async ({ loadModule, parseSync, scanSync }) => {
    await loadModule()
    return { parse: parseSync, scan: (sql) => scanSync(sql).tokens }
  })
  return loading
}

/**
 * Reads the statements of texts, of which each holds one, or several, or only comments. What cannot be
 * read is in `problems`, and the other texts are read all the same.
 */
export const readStatements = async (texts: readonly string[]): Promise<ReadStatements> =>
  statementsIn(await loadParser(), texts)

export interface ReadStatements {
  statements: Statement[]
  problems: SyntaxProblem[]
}

/** The same, with a parser that is loaded already. */
export function statementsIn(parser: Parser, texts: readonly string[]): ReadStatements {
  const statements: Statement[] = []
  const problems: SyntaxProblem[] = []
  for (const [index, text] of texts.entries()) {
    try {
      statements.push(...statementsOf(parser, text, index))
    } catch (error) {
      if (!isSqlError(error)) throw error
      const at = error.sqlDetails?.cursorPosition ?? 0
      problems.push({ index, line: lineAt(text, at), message: error.message })
    }
  }
  return { statements, problems }
}

/**
 * Reads the statements of texts that must all be SQL.
 *
 * @throws {MigrationError} for the first one that Postgres's parser refuses.
 */
export async function parseStatements(texts: readonly string[]): Promise<Statement[]> {
  const { statements, problems } = await readStatements(texts)
  const [problem] = problems
  if (problem) {
    throw new MigrationError(
      `statement ${problem.index + 1}, line ${problem.line}: ${problem.message}`,
    )
  }
  return statements
}

function statementsOf(parser: Parser, text: string, index: number): Statement[] {
  if (text.trim() === '') return []
  // Before it is scanned, which throws no error of SQL for a quote that is not closed.
  const { stmts = [] } = parser.parse(text)
  const bytes = Buffer.from(text)
  const tokens = parser.scan(text)
  const found: Statement[] = []
  let [past, next] = [0, 0]
  let [line, lineEnd] = [1, 0]
  for (const { stmt, stmt_location: from = 0, stmt_len: length } of stmts) {
    if (!stmt) continue
    const to = length ? from + length : bytes.length
    // Token by token, once: a file of data has a hundred thousand statements.
    const upTo: Token[] = []
    for (let token = tokens[next]; token && token.end <= to; token = tokens[++next]) {
      upTo.push(token)
    }
    const code = upTo.filter(
      (token) => token.start >= from && !isComment(token) && token.text !== ';',
    )
    const [first, last] = [code[0], code.at(-1)]
    if (!first || !last) continue
    // A comment between two statements belongs to the one below it.
    const above = upTo.filter(
      (token) => isComment(token) && token.start >= past && token.end <= first.start,
    )
    line += linesIn(bytes.subarray(lineEnd, first.start))
    lineEnd = first.start
    past = last.end
    const comments = above.flatMap((token) => token.text.split('\n')).map((line) => line.trim())
    found.push({
      index,
      line,
      sql: bytes.subarray(first.start, last.end).toString(),
      comments,
      directives: comments.flatMap(directiveOf),
      node: stmt,
      isJoined: found.length > 0,
    })
  }
  return found
}

const linesIn = (bytes: Buffer) => bytes.reduce((lines, byte) => lines + (byte === 10 ? 1 : 0), 0)

const isComment = ({ tokenName }: Token) => /COMMENT$/.test(tokenName)

function directiveOf(comment: string): Directive[] {
  const [, word] = /^--\s*plinth:\s*(concurrently|step)\s*$/.exec(comment) ?? []
  return word === 'concurrently' || word === 'step' ? [word] : []
}

const isSqlError = (error: unknown): error is SqlError =>
  error instanceof Error && 'sqlDetails' in error

const lineAt = (text: string, characters: number) => text.slice(0, characters).split('\n').length

/** The pieces of a statement between its top-level commas, such as the parts of an ALTER TABLE. */
export async function splitAtCommas(sql: string): Promise<string[]> {
  const { scan } = await loadParser()
  const bytes = Buffer.from(sql)
  const pieces: string[] = []
  let [depth, from] = [0, 0]
  for (const { text, start, end } of scan(sql)) {
    if (text === '(' || text === '[') depth++
    else if (text === ')' || text === ']') depth--
    else if (text === ',' && depth === 0) {
      pieces.push(bytes.subarray(from, start).toString())
      from = end
    }
  }
  return [...pieces, bytes.subarray(from).toString()]
}

/** A piece of SQL by where the parser says that it is, in bytes. */
export const sliceBytes = (sql: string, from: number, to?: number): string =>
  Buffer.from(sql).subarray(from, to).toString()

/** The parts of an ALTER TABLE. */
export const commandsOf = (nodes: readonly Node[] | undefined): AlterTableCmd[] =>
  (nodes ?? []).flatMap((node) => ('AlterTableCmd' in node ? [node.AlterTableCmd] : []))

/** Every value in a tree that is under one of `names`, at any depth. */
export function* valuesUnder(tree: unknown, ...names: string[]): Generator<unknown> {
  if (Array.isArray(tree)) {
    for (const each of tree) yield* valuesUnder(each, ...names)
  } else if (typeof tree === 'object' && tree !== null) {
    for (const [key, value] of Object.entries(tree)) {
      if (names.includes(key)) yield value
      yield* valuesUnder(value, ...names)
    }
  }
}

/** Every word in a tree: the names that it mentions, and the words of its literals and of function bodies. */
export function wordsOf(tree: unknown): Set<string> {
  const words = new Set<string>()
  const names = ['sval', 'relname', 'colname', 'conname', 'idxname', 'name', 'subname', 'indexname']
  for (const value of valuesUnder(tree, ...names)) {
    if (typeof value !== 'string') continue
    words.add(value)
    for (const [word] of value.matchAll(/[\w$]+/g)) words.add(word)
  }
  return words
}
