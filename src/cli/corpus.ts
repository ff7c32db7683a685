import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative, resolve, sep } from 'node:path'
import { UsageError } from './terminal.ts'

const MAX_FILES = 10_000
const MAX_BYTES = 4_000_000

export interface CorpusFile {
  /** Absolute. */
  path: string
  /** Below the folder, with slashes. */
  name: string
  format: 'text' | 'markdown'
}

export interface TextFile {
  text: string
  modifiedAt: Date
}

/** The Markdown and text files under a folder, by name; hidden folders and node_modules left out. */
export async function listCorpus(folder: string): Promise<CorpusFile[]> {
  const root = resolve(folder)
  const info = await stat(root).catch(() => undefined)
  if (!info?.isDirectory()) throw new UsageError(`${folder} is no folder`)

  const entries = await readdir(root, { withFileTypes: true, recursive: true })
  const files = entries
    .filter((entry) => entry.isFile() && /\.(md|markdown|txt)$/i.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => ({
      path,
      name: relative(root, path).split(sep).join('/'),
      format: /\.txt$/i.test(path) ? ('text' as const) : ('markdown' as const),
    }))
    .filter(({ name }) => !/(^|\/)(\.|node_modules\/)/.test(name))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
  if (files.length === 0) throw new UsageError(`${folder} holds no .md, .markdown or .txt file`)
  if (files.length > MAX_FILES) {
    throw new UsageError(`${folder} holds ${files.length} files; at most ${MAX_FILES} are indexed`)
  }
  return files
}

/** Reads a file as UTF-8; a string says why it cannot be. */
export async function readText({ path }: CorpusFile): Promise<TextFile | string> {
  const { size, mtime } = await stat(path)
  if (size > MAX_BYTES) return `has ${size} bytes, more than ${MAX_BYTES}`
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path))
    return text.includes('\0') ? 'holds NUL characters' : { text, modifiedAt: mtime }
  } catch {
    return 'is not UTF-8'
  }
}
