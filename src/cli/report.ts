import Table from 'cli-table3'
import pc from 'picocolors'
import type { SnippetPart } from '../queries/search.ts'
import { printable } from './terminal.ts'
import { summary, type TourReport } from './tour.ts'

const BAR = 20
const NANOS = 1_000_000_000

/** Without the colours of its own that the table would print into a file too. */
const PLAIN = { head: [], border: [] }

/** Nano-dollars as dollars, with as many digits as small amounts need. */
const dollars = (nanos: bigint | null): string =>
  nanos === null ? 'unpriced' : nanos === 0n ? '$0' : `$${(Number(nanos) / NANOS).toFixed(6)}`

const marked = (snippet: readonly SnippetPart[]): string =>
  snippet
    .map(({ text, isMatch }) => {
      const plain = printable(text).replace(/\s+/g, ' ')
      if (!isMatch) return plain
      return pc.isColorSupported ? pc.bold(pc.yellow(plain)) : `«${plain}»`
    })
    .join('')

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
      lines.push(`   ${marked(snippet)}`)
    }
  }
  lines.push(
    heading('Spend by day and model'),
    spendTable(report.spend),
    pc.dim('what if: the same tokens at the list price of that model; nothing of it was spent'),
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
      ...models.map((name) => `what if ${name}`),
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
