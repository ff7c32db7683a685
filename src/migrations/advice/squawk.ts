import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import type { Advice, Effect } from './advice.ts'
import { keyOf, nameOf, shownName } from './names.ts'
import type { Statement } from './parse.ts'
import { HERE, type Known, nothingKnown, replay } from './replay.ts'

/** What squawk reports, of each problem. */
interface Report {
  rule_name: string
  /** From 0. */
  line: number
}

/** What is said under a rule of squawk's, in plinth's words. */
interface Rule {
  effect: Effect
  message: string
  alternative?: string
  /** It is as true of a new table. */
  isOfNew?: boolean
}

/**
 * The rules of squawk that plinth has none of its own for. The others would say a second time what is
 * said already, or ask for what the migrator does anyway: timeouts, a transaction, safety in a re-run.
 */
export const RULES: Readonly<Record<string, Rule>> = {
  'adding-not-nullable-field': {
    effect: 'fails',
    message: 'refused if a row has no value for the column',
  },
  'ban-alter-domain-with-add-constraint': {
    effect: 'locks',
    message:
      'a new constraint of a domain is checked on every table that uses it, while writes wait',
  },
  'ban-char-field': {
    effect: 'style',
    message: 'char pads with blanks, which take room and surprise comparisons',
    alternative: 'text, with a check of its length if one is needed',
    isOfNew: true,
  },
  'ban-create-domain-with-constraint': {
    effect: 'style',
    message: 'a later change of the domain’s constraint has to check every table that uses it',
    alternative: 'a check constraint on the table',
    isOfNew: true,
  },
  'ban-drop-database': { effect: 'loses', message: 'the whole database is gone', isOfNew: true },
  'ban-truncate-cascade': {
    effect: 'loses',
    message: 'the tables that reference it are emptied too',
  },
  'ban-uncommitted-transaction': {
    effect: 'fails',
    message: 'a transaction is begun and not ended',
    alternative: 'leave transactions to the migrator',
    isOfNew: true,
  },
  'ban-duplicate-column-assignments': {
    effect: 'fails',
    message: 'a column is assigned twice',
    isOfNew: true,
  },
  'identifier-too-long': {
    effect: 'style',
    message:
      'the name is longer than 63 bytes: Postgres cuts it off there, and says so only in a notice',
    alternative: 'a shorter name',
    isOfNew: true,
  },
  'prefer-bigint-over-int': {
    effect: 'style',
    message: 'an integer ends at 2,147,483,647; to widen it later writes the table anew',
    alternative: 'bigint',
    isOfNew: true,
  },
  'prefer-bigint-over-smallint': {
    effect: 'style',
    message: 'a smallint ends at 32,767; to widen it later writes the table anew',
    alternative: 'bigint',
    isOfNew: true,
  },
  'prefer-identity': {
    effect: 'style',
    message: 'serial leaves a sequence with rights and an owner of its own',
    alternative: 'generated always as identity',
    isOfNew: true,
  },
  'prefer-text-field': {
    effect: 'style',
    message: 'a length that varchar has can only be lowered by writing or reading the whole table',
    alternative: 'text, with a check of its length if one is needed',
    isOfNew: true,
  },
  'prefer-timestamp-tz': {
    effect: 'style',
    message: 'a timestamp without time zone does not say which moment it is',
    alternative: 'timestamptz',
    isOfNew: true,
  },
  'require-enum-value-ordering': {
    effect: 'style',
    message: 'the new value comes last, after which an order by the enum puts it',
    alternative: 'BEFORE or AFTER a value',
  },
  'transaction-nesting': {
    effect: 'fails',
    message: 'a migration runs in a transaction already',
    alternative: 'leave transactions to the migrator',
    isOfNew: true,
  },
}

/** Rules of squawk's that plinth has rules of its own for, or that ask for what the migrator does. */
export const COVERED: readonly string[] = [
  'adding-field-with-default',
  'adding-foreign-key-constraint',
  'adding-required-field',
  'adding-serial-primary-key-field',
  'ban-concurrent-index-creation-in-transaction',
  'ban-drop-column',
  'ban-drop-not-null',
  'ban-drop-table',
  'changing-column-type',
  'constraint-missing-not-valid',
  'disallowed-unique-constraint',
  'prefer-repack',
  'prefer-robust-stmts',
  'renaming-column',
  'renaming-table',
  'require-concurrent-index-creation',
  'require-concurrent-index-deletion',
  'require-concurrent-reindex',
  'require-lock-timeout',
  'require-statement-timeout',
  'require-table-schema',
  'require-timeout-settings',
]

/** What squawk finds in the statements, if it is installed; else nothing. */
export async function lint(
  texts: readonly string[],
  statements: readonly Statement[],
  { known, version }: { known: Known; version: number },
): Promise<Advice[]> {
  const program = findSquawk()
  if (!program || statements.length === 0) return []
  const starts = new Map<number, Statement>()
  let line = 0
  const pieces: string[] = []
  for (const each of statements) {
    const lines = each.sql.split('\n').length
    for (let at = line; at < line + lines; at++) starts.set(at, each)
    pieces.push(`${each.sql}\n;`)
    line += lines + 1
  }
  const reports = await run(program, pieces.join('\n'), version)
  const present = structuredClone(known ?? nothingKnown())
  for (const each of statements) replay(present, each, HERE)
  return reports.flatMap(({ rule_name: name, line }) => {
    const statement = starts.get(line)
    const rule = RULES[name]
    if (!statement || (!rule && COVERED.includes(name))) return []
    if (!texts[statement.index]) return []
    const { isOfNew, ...said } = rule ?? { effect: 'style' as const, message: `squawk: ${name}` }
    const table = tableOf(statement)
    if (table && !isOfNew && present.tables.get(keyOf(table))?.origin.migration === HERE) return []
    return [
      {
        statement: statement.index,
        line: statement.line,
        rule: name,
        ...(table ? { table: shownName(table) } : {}),
        ...said,
      },
    ]
  })
}

/** The names of squawk's rules that a statement breaks; none where squawk is not installed. */
export async function reported(text: string, version = 15): Promise<string[]> {
  const program = findSquawk()
  return program ? (await run(program, text, version)).map((report) => report.rule_name) : []
}

function tableOf({ node }: Statement) {
  if ('AlterTableStmt' in node) return nameOf(node.AlterTableStmt.relation)
  if ('CreateStmt' in node) return nameOf(node.CreateStmt.relation)
  return undefined
}

/** The file of squawk's command; undefined if the optional package is not installed. */
function findSquawk(): string | undefined {
  try {
    return createRequire(import.meta.url).resolve('squawk-cli/js/bin/squawk')
  } catch {
    return undefined
  }
}

function run(program: string, script: string, version: number): Promise<Report[]> {
  const flags = ['--reporter=json', '--assume-in-transaction', `--pg-version=${version}.0`]
  return new Promise((resolve, reject) => {
    const options = { maxBuffer: 2 ** 28 }
    const child = execFile(
      process.execPath,
      [program, ...flags, '--stdin-filepath=migration.sql'],
      options,
      (error, stdout) => {
        // It exits with 1 when it has found something.
        try {
          resolve(JSON.parse(stdout || '[]'))
        } catch {
          reject(error ?? new Error(stdout))
        }
      },
    )
    child.stdin?.end(script)
  })
}
