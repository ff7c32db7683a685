import Table from 'cli-table3'
import pc from 'picocolors'
import type { SnippetPart } from '../queries/search.ts'
import { printable } from './terminal.ts'
import { summary, type TourReport } from './tour.ts'

/** Of the terminal, as far as a text is pleasant to read. */
const WIDTH = Math.min(process.stdout.columns ?? 100, 110)
/** What the columns beside the bar take. */
const BESIDE_BAR = 76
const BAR = Math.max(4, Math.min(20, WIDTH - BESIDE_BAR))
const NANOS = 1_000_000_000

/** Without the colours of its own that the table would print into a file too. */
const PLAIN = { head: [], border: [], compact: true, 'padding-left': 0 }

/** Nano-dollars as dollars, with as many digits as small amounts need. */
const dollars = (nanos: bigint | null): string =>
  nanos === null ? 'unpriced' : nanos === 0n ? '$0' : `$${(Number(nanos) / NANOS).toFixed(6)}`

/** A snippet on lines of the terminal's width, with the words of the question marked. */
function marked(snippet: readonly SnippetPart[], indent: string): string {
  const words = snippet.flatMap(({ text, isMatch }) =>
    printable(text)
      .split(/(?<= )/)
      .map((word) => ({ word, isMatch })),
  )
  let [line, width] = [indent, indent.length]
  const lines: string[] = []
  for (const { word, isMatch } of words) {
    if (width + word.length > WIDTH && width > indent.length) {
      lines.push(line)
      ;[line, width] = [indent, indent.length]
    }
    const mark = pc.isColorSupported ? (text: string) => pc.bold(pc.yellow(text)) : quoted
    line += isMatch ? word.replace(/\S+/, mark) : word
    width += word.length
  }
  return [...lines, line].join('\n')
}

const quoted = (word: string) => `«${word}»`

const heading = (text: string) => `\n${pc.bold(text)}`

/** The report as a person reads it. */
export function renderReport(report: TourReport): string {
  const { embedder, index, otherOrganization: other } = report
  const offline = embedder.isOffline
    ? pc.dim(
        ' (offline feature hashing: lexical, not semantic; it finds shared words, not meaning)',
      )
    : ''
  const lines = [
    heading(`Indexed ${printable(report.folder)}`),
    summary(index),
    ...index.skipped.map(({ name, reason }) => pc.yellow(`skipped ${printable(name)}: ${reason}`)),
    `embedder: ${embedder.model}, ${embedder.dimensions} dimensions${offline}`,
  ]
  for (const { question, matches } of report.answers) {
    lines.push(heading(`Acme asks: ${printable(question)}`))
    if (matches.length === 0) lines.push('nothing found')
    for (const { rank, similarity, file, position, snippet } of matches) {
      const near = similarity === null ? '   -' : similarity.toFixed(2)
      lines.push(`${rank}. ${pc.cyan(near)}  ${pc.dim(`${printable(file)} #${position}`)}`)
      lines.push(marked(snippet, '   '))
    }
  }
  lines.push(
    heading('Spend by day and model'),
    spendTable(report.spend),
    pc.dim('what if: the same tokens at that model’s list price; none of it was spent'),
    heading('Activity'),
    activityTable(report.activity),
    heading(`${other.name} asks: ${printable(other.question)}`),
    other.matches === 0
      ? pc.green('0 matches: another organization sees nothing of it')
      : pc.red(`${other.matches} matches`),
  )
  return lines.join('\n')
}

function spendTable(rows: TourReport['spend']): string {
  const models = Object.keys(rows[0]?.whatIfNanos ?? {})
  const table = new Table({
    head: [
      'day',
      'model',
      'calls',
      'tokens',
      '',
      'cost',
      // One word a line: on a narrow terminal the names are wider than what stands below them.
      ...models.map((name) => `what if\n${name.replaceAll('-', '-\n')}`),
    ],
    style: PLAIN,
    colAligns: [
      'left',
      'left',
      'right',
      'right',
      'left',
      'right',
      ...models.map(() => 'right' as const),
    ],
  })
  const most = Math.max(1, ...rows.map(({ tokens }) => tokens))
  for (const { day, model, calls, tokens, costNanos, whatIfNanos } of rows) {
    const bar = '█'.repeat(Math.max(tokens > 0 ? 1 : 0, Math.round((tokens / most) * BAR)))
    table.push([
      ...[day, printable(model), calls, tokens, pc.cyan(bar), dollars(costNanos)],
      ...models.map((name) => dollars(whatIfNanos[name] ?? null)),
    ])
  }
  return table.toString()
}

function activityTable(rows: TourReport['activity']): string {
  const table = new Table({
    head: ['when (UTC)', 'who', 'what', 'which'],
    style: PLAIN,
  })
  for (const { at, actor, action, resource } of rows) {
    table.push([
      at.toISOString().slice(0, 19).replace('T', ' '),
      actor,
      action,
      printable(resource),
    ])
  }
  return table.toString()
}

/** The report as a program reads it: nano-dollars as strings, since JSON has no bigint. */
export const toJson = (report: TourReport): string =>
  JSON.stringify(report, (_, value) => (typeof value === 'bigint' ? String(value) : value), 2)
