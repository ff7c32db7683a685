import { structuredPatch } from 'diff'
import type { Difference } from '../migrations/catalog/compare.ts'
import type { Verification } from '../migrations/catalog/verify.ts'
import { harmless } from './terminal.ts'

const CONTEXT_LINES = 2

const keyOf = ({ kind, name }: Difference) => `${kind} ${name}`

const count = (number: number, noun: string) => {
  const plural = noun.replace(/(ch|sh|s|x)$/, '$1e').replace(/([^aeiou])y$/, '$1ie')
  return `${number} ${number === 1 ? noun : `${plural}s`}`
}

const WORDS = { missing: 'is missing', extra: 'is not declared', different: 'differs' } as const

/** What differs, both sides of it, and the SQL that mends it all, as plain text. */
export function formatDifferences({ differences, operational }: Verification): string {
  const expected = operational.map(
    ({ parent, partitions }) => `expected: ${count(partitions, 'partition')} of ${parent}`,
  )
  if (differences.length === 0) {
    return ['the database is as declared', ...expected].map(harmless).join('\n')
  }
  const parts = partsOf(differences)
  const whole = differences.filter((one) => !isFolded(one, differences))
  const sections = whole.map((difference) => formatDifference(difference, parts))
  const script = formatMend(differences)
  return [
    count(whole.length, 'difference'),
    ...sections,
    ...(script
      ? [`SQL that mends ${whole.length === 1 ? 'it' : 'them'}, in this order:\n\n${script}`]
      : []),
    ...(expected.length > 0 ? [expected.join('\n')] : []),
  ]
    .map(harmless)
    .join('\n\n')
}

/** The mends of all differences as one script, each below a comment that says what it is for. */
export function formatMend(differences: readonly Difference[]): string {
  return differences
    .filter(({ mend }) => mend.length > 0)
    .map((difference) => {
      const { mend, change, loses } = difference
      const title = `-- ${keyOf(difference).replace(/\s+/g, ' ')} ${WORDS[change]}${loses ? ': LOSES DATA' : ''}`
      return [title, ...mend.map((statement) => `${statement.replace(/;?\s*$/, '')};`)].join('\n')
    })
    .join('\n')
}

const isFolded = ({ within }: Difference, differences: readonly Difference[]) =>
  within !== undefined && differences.some((one) => keyOf(one) === within)

/** How many of each kind are missing, or not declared, together with what they are parts of. */
function partsOf(differences: readonly Difference[]): Map<string, Map<string, number>> {
  const byKey = new Map(differences.map((one) => [keyOf(one), one]))
  const parts = new Map<string, Map<string, number>>()
  for (const difference of differences) {
    let outer: Difference | undefined = difference
    while (outer?.within && byKey.has(outer.within)) outer = byKey.get(outer.within)
    if (!outer || outer === difference) continue
    const kinds = parts.get(keyOf(outer)) ?? new Map<string, number>()
    kinds.set(difference.kind, (kinds.get(difference.kind) ?? 0) + 1)
    parts.set(keyOf(outer), kinds)
  }
  return parts
}

function formatDifference(
  difference: Difference,
  parts: ReadonlyMap<string, ReadonlyMap<string, number>>,
): string {
  const { change, live, declared, loses, note } = difference
  const lines = [`${keyOf(difference)} ${WORDS[change]}`]
  const kinds = [...(parts.get(keyOf(difference)) ?? [])]
  if (kinds.length > 0) {
    lines.push(`  with ${kinds.map(([kind, number]) => count(number, kind)).join(', ')}`)
  }
  lines.push(...formatSides(live, declared))
  if (loses) lines.push('  the mend loses data')
  if (note) lines.push(`  ${note}`)
  return lines.join('\n')
}

function formatSides(live: string | undefined, declared: string | undefined): string[] {
  if (live !== undefined && declared !== undefined && /\n/.test(live.trim() + declared.trim())) {
    const { hunks } = structuredPatch(
      'live',
      'declared',
      `${live.trimEnd()}\n`,
      `${declared.trimEnd()}\n`,
      '',
      '',
      {
        context: CONTEXT_LINES,
      },
    )
    const lines = hunks.flatMap(({ lines: changed }) => [
      '  …',
      ...changed.map((line) => `  ${line}`),
    ])
    return ['  - live', '  + declared', ...lines]
  }
  return [...formatSide('live', live), ...formatSide('declared', declared)]
}

function formatSide(title: string, definition: string | undefined): string[] {
  if (!definition) return []
  const lines = definition.trimEnd().split('\n')
  if (lines.length === 1) return [`  ${`${title}:`.padEnd(10)}${lines[0]}`]
  return [`  ${title}:`, ...lines.map((line) => `    ${line}`)]
}
