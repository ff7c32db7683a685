import { BREAKPOINT } from '../advice/parse.ts'
import { splitName } from './objects.ts'
import { type References, referencesOf, refersTo, type Thing } from './references.ts'

/** A statement of a migration, and what it has to do with the others. */
export interface Step {
  readonly sql: string
  /** The managed object that it belongs to. */
  readonly title?: string
  /** What the reader has to know, above the statement. */
  readonly note?: string
  /** Whether it is to run outside of a transaction, as CONCURRENTLY. */
  readonly isConcurrent?: boolean
  /** Whether it begins a transaction of its own, because it needs what came before committed. */
  readonly isNewStep?: boolean
  /** What it makes, or takes away. */
  readonly things: readonly Thing[]
  /** The SQL in which it names what it needs: its own, or for a drop, of what is dropped. */
  readonly definition: string
  /** What it needs although its text does not say so. */
  readonly needs?: readonly Thing[]
}

const isThing = (a: Thing, b: Thing) =>
  a.kind === b.kind && a.schema === b.schema && a.name === b.name && a.column === b.column

const QUOTED = String.raw`(?:"[^"]+"\.)?"[^"]+"`
const at = (pattern: string) => new RegExp(`^${pattern.replaceAll('NAME', `(${QUOTED})`)}`)

/** What the statements of drizzle-kit make, by how they begin. */
const MAKERS: [RegExp, (name: string, column: string) => Thing[]][] = [
  [
    at('CREATE SCHEMA NAME'),
    (name) => {
      const thing = splitName(name)
      return [{ kind: 'schema', schema: thing.name, name: thing.name }]
    },
  ],
  [at('CREATE TYPE NAME'), (name) => [{ kind: 'type', ...splitName(name) }]],
  [at('CREATE (?:TABLE|SEQUENCE) NAME'), (name) => [{ kind: 'relation', ...splitName(name) }]],
  [at('CREATE (?:MATERIALIZED )?VIEW NAME'), (name) => [{ kind: 'relation', ...splitName(name) }]],
  [
    at('ALTER TABLE NAME (?:ADD|ALTER) COLUMN ("[^"]+")'),
    (name, column) => [{ kind: 'column', ...splitName(name), column: column.slice(1, -1) }],
  ],
  [
    at('ALTER TABLE NAME ADD (?:CONSTRAINT "[^"]+" )?(?:PRIMARY KEY|UNIQUE)'),
    (name) => [{ kind: 'key', ...splitName(name) }],
  ],
  [
    at('CREATE UNIQUE INDEX (?:CONCURRENTLY )?"[^"]+" ON NAME'),
    (name) => [{ kind: 'key', ...splitName(name) }],
  ],
]

/** What a statement of drizzle-kit makes that others may refer to. */
export function madeBy(sql: string): Thing[] {
  for (const [pattern, things] of MAKERS) {
    const [, name, column = ''] = pattern.exec(sql) ?? []
    if (name) return things(name, column)
  }
  return []
}

/** Statements that a key of another table is looked up for. */
const NEEDS_KEY = /\breferences\b|^create (materialized )?view|\bgroup by\b/i
/** Statements that are cheaper, or only possible, when the rows are there. */
const NEEDS_ROWS = /\bforeign key\b|^create materialized view|^create (unique )?index/i

/** Whether, and how surely, a statement needs what another one makes. */
function needs(step: Step, references: References, thing: Thing) {
  if (step.needs?.some((needed) => isThing(needed, thing))) return 'sure'
  const { words } = references.outside
  if (!words.has(thing.name) && !references.inside.words.has(thing.name)) return
  if (thing.kind === 'key' && !NEEDS_KEY.test(step.definition)) return
  if (thing.kind === 'rows' && !NEEDS_ROWS.test(step.definition)) return
  return refersTo(references, thing)
}

/**
 * Puts what is needed before what needs it, and leaves the rest as it is. Where the names that a text
 * uses are not sure to be meant, they count as long as they contradict nothing; in a circle, the order
 * that was given stays.
 */
export function orderSteps(steps: readonly Step[]): Step[] {
  const references = steps.map(({ definition }) => referencesOf(definition))
  const sure = steps.map(() => new Set<number>())
  const maybe: [from: number, to: number][] = []
  for (const [user, step] of steps.entries()) {
    const text = references[user]
    if (!text) continue
    for (const [maker, { things }] of steps.entries()) {
      if (maker === user) continue
      const strengths = things.map((thing) => needs(step, text, thing))
      if (strengths.includes('sure')) sure[user]?.add(maker)
      else if (strengths.includes('maybe')) maybe.push([user, maker])
    }
  }
  // Two statements about one column name each other.
  for (const [user, makers] of sure.entries()) {
    for (const maker of makers) {
      if (maker > user && sure[maker]?.has(user)) makers.delete(maker)
    }
  }
  const reaches = (from: number, to: number, seen = new Set<number>()): boolean => {
    if (from === to) return true
    if (seen.has(from)) return false
    seen.add(from)
    return [...(sure[from] ?? [])].some((next) => reaches(next, to, seen))
  }
  for (const [user, maker] of maybe) if (!reaches(maker, user)) sure[user]?.add(maker)

  const ordered: Step[] = []
  const visited = new Set<number>()
  const visit = (place: number) => {
    if (visited.has(place)) return
    visited.add(place)
    for (const maker of [...(sure[place] ?? [])].sort((a, b) => a - b)) visit(maker)
    const step = steps[place]
    if (step) ordered.push(step)
  }
  for (const place of steps.keys()) visit(place)
  return ordered
}

/** The same for statements that take away: whatever needs a thing goes before it. */
export const orderDrops = (steps: readonly Step[]): Step[] =>
  orderSteps(steps.toReversed()).toReversed()

/** A migration's statements, one string each: as they are written to the file, without the breakpoints. */
export const render = (steps: readonly Step[]): string[] =>
  steps.map(({ sql, title, note, isConcurrent, isNewStep }) =>
    [
      title && `-- managed: ${title}`,
      ...(note ? note.split('\n').map((line) => `-- ${line}`) : []),
      isNewStep && '-- plinth: step',
      isConcurrent && '-- plinth: concurrently',
      `${sql};`,
    ]
      .filter(Boolean)
      .join('\n'),
  )

/** The text of a migration file. */
export const joinStatements = (statements: readonly string[]): string =>
  statements.length === 0 ? '' : `${statements.join(`\n${BREAKPOINT}\n`)}\n`
