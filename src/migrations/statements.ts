import { type Node, parse } from 'libpg-query'

/** What drizzle-kit writes between two statements, and splits at. */
export const BREAKPOINT = '--> statement-breakpoint'

/** Leading comments, in which a statement's directives are. */
const COMMENTS = /^(?:\s*--[^\n]*(?:\n|$)|\s*\/\*[\s\S]*?\*\/)*\s*/

/** What Postgres refuses in a transaction, or in a function, which is the same to a migration. */
const OUTSIDE =
  /^(?:(?:create\s+(?:unique\s+)?|drop\s+)index\s+concurrently|reindex\b.*\bconcurrently|refresh\s+.*\bdetach\b|vacuum|alter\s+table\b.*\bdetach\s+partition\b.*\bconcurrently|(?:create|drop)\s+(?:database|tablespace)|alter\s+system)\b/is

const INDEX = /^((?:create\s+(?:unique\s+)?|drop\s+)index\s+)(?!concurrently\b)/i

/** What runs in one go: in a transaction of its own, or outside of any. */
export type Step =
  | { readonly kind: 'transaction'; readonly statements: readonly string[] }
  | {
      readonly kind: 'outside'
      readonly statement: string
      /** The form that a transaction takes, where there is one. */
      readonly plain: string | undefined
    }
  | { readonly kind: 'data'; readonly module: string }

const directives = (statement: string) =>
  [...(COMMENTS.exec(statement)?.[0] ?? '').matchAll(/^\s*-- plinth: (.+?)\s*$/gm)].map(
    ([, directive]) => directive,
  )

/** A statement without the comments above it. */
export const bare = (statement: string): string => statement.replace(COMMENTS, '').trim()

/** Divides the text of a migration into statements. What the parser does not know stays in one piece. */
export async function splitStatements(text: string): Promise<string[]> {
  const pieces = text.split(BREAKPOINT).map((piece) => piece.trim())
  const statements = await Promise.all(pieces.map(splitPiece))
  return statements.flat().filter((statement) => bare(statement) !== '')
}

async function splitPiece(piece: string): Promise<string[]> {
  if (!piece.replace(/;\s*$/, '').includes(';')) return [piece]
  const bytes = Buffer.from(piece)
  const parsed = await parse(piece).catch(() => undefined)
  if (!parsed?.stmts || parsed.stmts.length < 2) return [piece]
  return parsed.stmts.map(({ stmt_location: start = 0, stmt_len: length }) =>
    bytes
      .subarray(start, length ? start + length : undefined)
      .toString()
      .trim(),
  )
}

/** The steps of a migration, by its directives: see docs/migrations.md. */
export async function readSteps(text: string): Promise<Step[]> {
  const steps: Step[] = []
  let together: string[] = []
  const close = () => {
    if (together.length > 0) steps.push({ kind: 'transaction', statements: together })
    together = []
  }
  for (const statement of await splitStatements(text)) {
    const marks = directives(statement)
    const body = bare(statement)
    if (marks.includes('concurrently') && INDEX.test(body)) {
      close()
      steps.push({
        kind: 'outside',
        statement: body.replace(INDEX, '$1CONCURRENTLY '),
        plain: statement,
      })
    } else if (OUTSIDE.test(body)) {
      close()
      steps.push({ kind: 'outside', statement: body, plain: undefined })
    } else {
      if (marks.includes('step')) close()
      together.push(statement)
    }
  }
  close()
  return steps
}

export interface IndexTarget {
  kind: 'create' | 'drop'
  /** Quoted and qualified. */
  index: string
  /** Of the table that is indexed, where the statement names it. */
  table: string | undefined
}

const quote = (name: string) => `"${name.replaceAll('"', '""')}"`
const qualified = (...names: (string | undefined)[]) =>
  names
    .filter((name) => name !== undefined && name !== '')
    .map((name) => quote(name as string))
    .join('.')

const nameOf = (node: Node): string[] =>
  'List' in node
    ? (node.List.items ?? []).flatMap(nameOf)
    : 'String' in node
      ? [node.String.sval ?? '']
      : []

/** The index that a statement makes or drops; undefined for another statement. */
export async function readIndexTarget(statement: string): Promise<IndexTarget | undefined> {
  const node = (await parse(statement)).stmts?.[0]?.stmt
  if (node && 'IndexStmt' in node) {
    const { idxname, relation } = node.IndexStmt
    const table = qualified(relation?.schemaname, relation?.relname)
    return { kind: 'create', index: qualified(relation?.schemaname, idxname), table }
  }
  if (node && 'DropStmt' in node && node.DropStmt.removeType === 'OBJECT_INDEX') {
    const [first] = node.DropStmt.objects ?? []
    return first && { kind: 'drop', index: qualified(...nameOf(first)), table: undefined }
  }
}
