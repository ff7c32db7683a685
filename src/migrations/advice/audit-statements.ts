import type { DefElem, Node } from 'libpg-query'
import { type Advice, type AdviceOptions, adviseOn } from './advice.ts'
import type { Finding, MigrationFile, Severity } from './audit.ts'
import { linesOf } from './audit-state.ts'
import { shownName } from './names.ts'
import { commandsOf, readStatements, type Statement, textsOf, valuesUnder } from './parse.ts'
import { madeBy } from './targets.ts'

/** What is wrong with the statements of one migration, each by itself. */
export async function checkStatements(
  { name, sql, isFolder }: MigrationFile,
  { isApplied, ...options }: AdviceOptions & { isApplied?: boolean },
): Promise<Finding[]> {
  const texts = textsOf(sql)
  const starts = linesOf(sql)
  const { statements, problems } = await readStatements(texts)
  const at = ({ index, line }: { index: number; line: number }) => ({
    migration: name,
    statement: index,
    line: (starts[index] ?? 0) + line,
  })
  const found: Finding[] = problems.map((problem) => ({
    rule: 'syntax',
    severity: 'error',
    ...at(problem),
    message: `cannot be read: ${problem.message}`,
    mend: 'correct it; Postgres’s own parser, of version 18, refuses it',
  }))
  for (const statement of statements) {
    if (isFolder && statement.isJoined) {
      found.push({
        rule: 'breakpoint-missing',
        severity: 'warning',
        ...at(statement),
        message: 'is a second statement in one chunk, which some drivers refuse',
        mend: 'put "--> statement-breakpoint" above it',
      })
    }
    if (isFolder && isConcurrent(statement.node)) {
      found.push({
        rule: 'concurrently-literal',
        severity: 'error',
        ...at(statement),
        message: 'says CONCURRENTLY, which no transaction allows: drizzle-kit cannot run it',
        mend: 'write it without, below the line "-- plinth: concurrently"',
      })
    }
    const secret = secretIn(statement.node)
    if (secret) {
      found.push({
        rule: 'secret',
        severity: 'error',
        ...at(statement),
        message: `holds what looks like ${secret}, for all who can read the file`,
        mend: 'change the secret now, and set it outside of migrations',
      })
    }
  }
  found.push(...checkRepeats(name, statements, at), ...checkQualified(name, statements))
  if (isApplied) return found
  for (const advice of await adviseOn(texts, options)) {
    const severity = severityOf(advice)
    if (!severity) continue
    const { rule, message, alternative, statement, line } = advice
    const mend = alternative ?? 'be sure that it is meant, and run it when little else does'
    found.push({ rule, severity, ...at({ index: statement, line }), message, mend })
  }
  return found
}

/** Which of what is advised belongs into an audit: nothing that only lasts a moment. */
function severityOf({ rule, effect, lasts }: Advice): Severity | undefined {
  if (rule === 'syntax') return
  if (rule === 'enum-value-used') return 'error'
  if (effect === 'rewrites' || effect === 'loses' || rule === 'drop-cascade') return 'warning'
  if (effect === 'locks') return lasts === 'moment' ? undefined : 'warning'
  return 'info'
}

/** Whether a statement must be outside of a transaction because it says CONCURRENTLY. */
function isConcurrent(node: Node): boolean {
  // A materialized view is refreshed concurrently in a transaction all the same.
  if ('RefreshMatViewStmt' in node) return false
  if ('ReindexStmt' in node) {
    return (node.ReindexStmt.params ?? []).some(
      (each) => 'DefElem' in each && each.DefElem.defname === 'concurrently',
    )
  }
  return [...valuesUnder(node, 'concurrent')].includes(true)
}

const isOutside = ({ node }: Statement) =>
  isConcurrent(node) || 'VacuumStmt' in node || 'CreatedbStmt' in node || 'AlterSystemStmt' in node

function checkRepeats(
  name: string,
  statements: readonly Statement[],
  at: (statement: Statement) => Pick<Finding, 'migration' | 'statement' | 'line'>,
): Finding[] {
  const single = statements.filter(
    ({ node, directives }) => !directives.includes('concurrently') && !canRepeat(node),
  )
  const [first] = single
  if (!first) return []
  const mend = 'IF [NOT] EXISTS, OR REPLACE, or a DROP … IF EXISTS before it'
  if (!statements.some(isOutside)) {
    return [
      {
        rule: 'not-repeatable',
        severity: 'info',
        ...at(first),
        message: `${single.length} of its ${statements.length} statements fail when they are run a second time; the transaction sees to it that they are not`,
        mend: `${mend}, should it be run by hand`,
      },
    ]
  }
  return single.map((statement) => ({
    rule: 'not-repeatable',
    severity: 'warning' as const,
    ...at(statement),
    message: `fails when it is run a second time, which it is after a failure: no transaction undoes ${name}`,
    mend,
  }))
}

/** Whether a statement that has been run can be run again, to the same end. */
function canRepeat(node: Node): boolean {
  if ('CreateStmt' in node) return node.CreateStmt.if_not_exists === true
  if ('CreateTableAsStmt' in node) return node.CreateTableAsStmt.if_not_exists === true
  if ('CreateSchemaStmt' in node) return node.CreateSchemaStmt.if_not_exists === true
  if ('CreateExtensionStmt' in node) return node.CreateExtensionStmt.if_not_exists === true
  if ('CreateSeqStmt' in node) return node.CreateSeqStmt.if_not_exists === true
  if ('IndexStmt' in node) return node.IndexStmt.if_not_exists === true
  if ('ViewStmt' in node) return node.ViewStmt.replace === true
  if ('CreateFunctionStmt' in node) return node.CreateFunctionStmt.replace === true
  if ('CreateTrigStmt' in node) return node.CreateTrigStmt.replace === true
  if ('DropStmt' in node) return node.DropStmt.missing_ok === true
  if ('AlterEnumStmt' in node) return node.AlterEnumStmt.skipIfNewValExists === true
  if ('InsertStmt' in node) return node.InsertStmt.onConflictClause !== undefined
  if ('AlterTableStmt' in node) return canAlterAgain(node.AlterTableStmt.cmds)
  const once = ['CreatePolicyStmt', 'CreateEnumStmt', 'CreateDomainStmt', 'CreateRoleStmt']
  const also = ['RenameStmt', 'CompositeTypeStmt', 'AlterObjectSchemaStmt', 'CreateRangeStmt']
  return ![...once, ...also].some((kind) => kind in node)
}

function canAlterAgain(nodes: readonly Node[] | undefined): boolean {
  const dropped = new Set<string>()
  return commandsOf(nodes).every(({ subtype, missing_ok, name = '', def }) => {
    if (subtype === 'AT_DropConstraint' && missing_ok) dropped.add(name)
    if (subtype === 'AT_AddColumn' || subtype === 'AT_DropColumn') return missing_ok === true
    if (subtype === 'AT_DropConstraint') return missing_ok === true
    if (subtype === 'AT_AddConstraint') {
      const added = def && 'Constraint' in def ? def.Constraint.conname : undefined
      return added !== undefined && dropped.has(added)
    }
    return subtype !== 'AT_AttachPartition' && subtype !== 'AT_DetachPartition'
  })
}

/** Names that mean another thing under another search_path. */
function checkQualified(migration: string, statements: readonly Statement[]): Finding[] {
  const bare = new Map<string, Statement>()
  for (const statement of statements)
    for (const name of madeBy(statement.node))
      if (name.schema === undefined && !bare.has(name.name)) bare.set(name.name, statement)
  const names = [...bare.keys()]
  if (names.length === 0) return []
  const shown = names.slice(0, 5).map((name) => shownName({ name }))
  const rest = names.length > shown.length ? ` and ${names.length - shown.length} more` : ''
  return [
    {
      rule: 'name-unqualified',
      severity: 'info',
      migration,
      message: `names without a schema: ${shown.join(', ')}${rest}; where they are is for the search_path to say`,
      mend: 'write the schema before them',
    },
  ]
}

const SECRETS: [RegExp, string][] = [
  [/\b\w+:\/\/[^\s:/@]+:[^\s:/@]{3,}@/, 'an address with a password in it'],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----/, 'a private key'],
  [/\b(AKIA|ASIA)[A-Z0-9]{16}\b/, 'an access key'],
  [/\b(sk|rk|pk)[-_](live|test|proj|ant)[-_]\w{8,}/, 'an access key'],
  [/\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}/, 'an access token'],
  [/\b(password|passwd|secret|api_?key|access_?token)\s*[=:]\s*['"]?[^\s'"]{6,}/i, 'a password'],
]

/** What a literal looks like that should be in no file; never the literal itself. */
function secretIn(node: Node): string | undefined {
  for (const option of valuesUnder(node, 'DefElem')) {
    const { defname, arg } = option as DefElem
    const isPassword = defname === 'password' || defname === 'encryptedPassword'
    if (isPassword && arg && 'String' in arg && arg.String.sval) return 'a password'
  }
  // A function's body says how to check a password, not what it is.
  if ('CreateFunctionStmt' in node || 'DoStmt' in node) {
    const [body = ''] = [...valuesUnder(node, 'sval')].filter(isLong)
    return /\bpassword\s+'[^']+'/i.test(body) ? 'a password' : known(body, SECRETS.slice(0, -1))
  }
  for (const value of valuesUnder(node, 'sval', 'comment')) {
    const found = typeof value === 'string' ? known(value, SECRETS) : undefined
    if (found) return found
  }
}

const isLong = (value: unknown): value is string => typeof value === 'string' && value.includes(' ')

const known = (text: string, secrets: readonly [RegExp, string][]): string | undefined =>
  secrets.find(([pattern]) => pattern.test(text))?.[1]
