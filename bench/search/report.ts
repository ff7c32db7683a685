/** Prints a table: the first column to the left, numbers to the right. */
export function printRows(
  title: string,
  header: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  const widths = header.map((name, at) =>
    Math.max(name.length, ...rows.map((row) => (row[at] ?? '').length)),
  )
  const line = (row: readonly string[]) =>
    `  ${row.map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0))).join('  ')}`.trimEnd()
  process.stdout.write(`${[title, line(header), ...rows.map(line)].join('\n')}\n\n`)
}

export const ms = (value: number): string => value.toFixed(2)

export const times = (ratio: number): string =>
  `x${ratio >= 100 ? ratio.toFixed(0) : ratio.toFixed(2)}`

/** The time below which 95 of 100 are. */
export function p95(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * 0.95) - 1)] ?? Number.NaN
}

/** How many of those that should be found are among those that are, from 0 to 1. */
export const recallOf = (nearest: readonly string[], found: readonly string[]): number =>
  nearest.filter((id) => found.includes(id)).length / nearest.length

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length
