/** Turns a value into another one: an element's text into what it means, or the reverse. */
export type Codec = (value: unknown) => unknown

/** Reads what Postgres writes of an array, of any depth; null for its NULLs. */
export function parseArray(text: string, delimiter: string, parse: Codec): unknown {
  const tokens = new RegExp(`[{}]|"((?:[^"\\\\]|\\\\.)*)"|([^{}"${delimiter}]+)`, 'gs')
  const open: unknown[][] = [[]]
  for (const [token, quoted, bare] of text.matchAll(tokens)) {
    if (token === '}') open.pop()
    else if (token === '{') {
      const inner: unknown[] = []
      open.at(-1)?.push(inner)
      open.push(inner)
    } else if (bare === 'NULL') open.at(-1)?.push(null)
    else open.at(-1)?.push(parse(bare ?? quoted?.replace(/\\(.)/gs, '$1')))
  }
  // Bounds, as in [0:1]={1,2}, come before the array.
  return open[0]?.at(-1)
}

/** Writes an array as Postgres reads it, of any depth. */
export function writeArray(items: readonly unknown[], delimiter: string, write: Codec): string {
  let text = ''
  for (const item of items) {
    if (text !== '') text += delimiter
    if (item === null || item === undefined) text += 'null'
    else if (Array.isArray(item)) text += writeArray(item, delimiter, write)
    else text += quote(String(write(item)))
  }
  return `{${text}}`
}

// Most texts have nothing to escape, and to look for it is cheaper than to replace nothing.
const quote = (text: string): string =>
  text.includes('"') || text.includes('\\') ? `"${text.replace(/["\\]/g, '\\$&')}"` : `"${text}"`
