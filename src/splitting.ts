import { createHash } from 'node:crypto'
import { ValidationError } from './errors.ts'
import { checkInteger, checkOneOf } from './validation.ts'

const MAX_CHUNKS = 20_000

export interface SplitOptions {
  /** How the text is cut: along Markdown's headings, or along paragraphs and sentences. */
  format?: 'text' | 'markdown'
  /** Of a chunk, in characters, at most; 1,000 unless said. */
  chunkSize?: number
  /** How many characters a chunk repeats of the one before; 100 unless said. */
  chunkOverlap?: number
}

/** A passage of a text. */
export interface Piece {
  content: string
  /** SHA-256 of the content. */
  hash: Buffer
}

/**
 * Cuts a text into passages of a bounded size that overlap, in reading order; none for an empty text.
 *
 * @throws {ValidationError} for sizes out of range, and for a text that falls into more than 20,000.
 */
export async function splitText(
  text: string,
  { format = 'text', chunkSize = 1_000, chunkOverlap = 100 }: SplitOptions,
): Promise<Piece[]> {
  checkOneOf('format', format, ['text', 'markdown'])
  checkInteger('chunkSize', chunkSize, { min: 50, max: 20_000 })
  checkInteger('chunkOverlap', chunkOverlap, { max: Math.floor(chunkSize / 2) })
  if (text.trim() === '') return []
  const { MarkdownTextSplitter, RecursiveCharacterTextSplitter } = await import(
    '@langchain/textsplitters'
  )
  const Splitter = format === 'markdown' ? MarkdownTextSplitter : RecursiveCharacterTextSplitter
  const parts = await new Splitter({ chunkSize, chunkOverlap }).splitText(text)
  if (parts.length > MAX_CHUNKS) {
    throw new ValidationError(
      'text',
      `falls into ${parts.length} chunks; at most ${MAX_CHUNKS} are allowed`,
    )
  }
  return wholeCharacters(text, parts).map((content) => ({
    content,
    hash: createHash('sha256').update(content).digest(),
  }))
}

/** Mends the parts where the splitter, which counts UTF-16 code units, has cut a surrogate pair in two. */
function wholeCharacters(text: string, parts: readonly string[]): string[] {
  let at = 0
  return parts.flatMap((part) => {
    if (part.isWellFormed()) return [part]
    at = Math.max(text.indexOf(part, at), at)
    const isCut = /[\ud800-\udbff]$/.test(part)
    const whole = (isCut ? part + text.charAt(at + part.length) : part).replace(
      /^[\udc00-\udfff]/,
      '',
    )
    return whole === '' ? [] : [whole.toWellFormed()]
  })
}
