import type { Finding, MigrationFile, Severity } from './audit.ts'
import { shownName } from './names.ts'
import { textsOf } from './parse.ts'
import type { Known, KnownFunction, Origin } from './replay.ts'

/** What the migrations make in the end, whichever of them makes it. */
export function checkFinalState(known: Known, files: readonly MigrationFile[]): Finding[] {
  const starts = new Map(files.map(({ name, sql }) => [name, linesOf(sql)]))
  const finding = (
    rule: string,
    severity: Severity,
    { migration, statement, line }: Origin,
    message: string,
    mend: string,
  ): Finding => ({
    rule,
    severity,
    migration,
    statement,
    line: (starts.get(migration)?.[statement] ?? 0) + line,
    message,
    mend,
  })
  const found: Finding[] = []
  for (const {
    kind,
    name,
    partitionOf,
    hasRowSecurity,
    policies,
    origin,
  } of known.tables.values()) {
    // A partition is under its parent's policies where it is asked through the parent.
    if (kind !== 'table' || partitionOf !== undefined) continue
    const table = shownName(name)
    if (!hasRowSecurity) {
      found.push(
        finding(
          'table-without-row-security',
          'warning',
          origin,
          `${table} has no row level security: who may read it may read every row`,
          `alter table ${table} enable row level security, with a policy for each command`,
        ),
      )
    } else if (policies.size === 0) {
      found.push(
        finding(
          'table-without-policy',
          'warning',
          origin,
          `${table} has row level security and no policy: only its owner sees its rows`,
          `create the policies of ${table}, or say in a comment that nobody else is meant to`,
        ),
      )
    }
  }
  for (const each of known.functions.values()) {
    for (const [rule, severity, message, mend] of problemsOf(each)) {
      found.push(finding(rule, severity, each.origin, message, mend))
    }
  }
  return found
}

/** How many lines of a file are above each of its texts. */
export function linesOf(sql: string): number[] {
  const lines: number[] = []
  let at = 0
  for (const text of textsOf(sql)) {
    lines.push(at)
    at += text.split('\n').length - 1
  }
  return lines
}

type Problem = [rule: string, severity: Severity, message: string, mend: string]

function problemsOf({
  name,
  argumentTypes,
  searchPath,
  isDefiner,
  isPublic,
  isTrigger,
}: KnownFunction): Problem[] {
  const title = `${shownName(name)}(${argumentTypes})`
  const problems: Problem[] = []
  if (searchPath === undefined) {
    problems.push([
      isDefiner ? 'definer-search-path' : 'function-search-path',
      isDefiner ? 'error' : 'warning',
      isDefiner
        ? `${title} runs with its owner’s rights and the caller’s search_path: the caller decides what its names mean`
        : `${title} has no search_path of its own: what its names mean depends on the caller`,
      `alter function ${title} set search_path = ''`,
    ])
  } else if (isDefiner && searchPath.at(-1) !== 'pg_temp') {
    // Under an empty path only what pg_catalog has can be written without its schema, and so be taken over.
    const isEmpty = searchPath.every((schema) => schema === '')
    problems.push([
      isEmpty ? 'definer-empty-path' : 'definer-search-path',
      isEmpty ? 'info' : 'error',
      isEmpty
        ? `${title} runs with its owner’s rights; a table of the caller’s in pg_temp comes before one of pg_catalog that it names without its schema`
        : `${title} runs with its owner’s rights and looks into pg_temp first, where the caller can put a table of any name`,
      `alter function ${title} set search_path = ${isEmpty ? 'pg_catalog' : `${searchPath.join(', ')}`}, pg_temp`,
    ])
  }
  if (isDefiner && isPublic && !isTrigger) {
    problems.push([
      'definer-public',
      'warning',
      `${title} runs with its owner’s rights, and everybody may call it`,
      `revoke execute on function ${title} from public`,
    ])
  }
  return problems
}
