import type { Finding, Severity } from '../migrations/advice/audit.ts'

const HEADINGS: Record<Severity, string> = {
  error: 'Errors',
  warning: 'Warnings',
  info: 'Notes',
}

const plural = (count: number, word: string) => `${count} ${word}${count === 1 ? '' : 's'}`

/** Text in a table's cell: on one line, and without what would end the cell. */
const cell = (text: string) => text.replace(/\s+/g, ' ').replaceAll('|', '\\|')

/** The findings of an audit, for people (Markdown) or for programs (JSON). */
export function formatAudit(findings: readonly Finding[], format: 'markdown' | 'json'): string {
  if (format === 'json') return JSON.stringify(findings, null, 2)
  const of = (severity: Severity) => findings.filter((finding) => finding.severity === severity)
  const severities = Object.keys(HEADINGS) as Severity[]
  const counts = severities.map((severity) =>
    plural(of(severity).length, severity === 'info' ? 'note' : severity),
  )
  const sections = severities
    .filter((severity) => of(severity).length > 0)
    .map((severity) =>
      [
        `## ${HEADINGS[severity]}`,
        '',
        '| Where | Rule | What | How to mend it |',
        '|---|---|---|---|',
        ...of(severity).map(
          ({ migration, line, rule, message, mend }) =>
            `| ${cell(migration)}${line === undefined ? '' : `:${line}`} | ${rule} | ${cell(message)} | ${cell(mend)} |`,
        ),
      ].join('\n'),
    )
  return `${['# Audit of the migrations', `${counts.join(', ')}.`, ...sections].join('\n\n')}\n`
}
