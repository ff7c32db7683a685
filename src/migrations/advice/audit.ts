import { readdir, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { MigrationError } from '../../errors.ts'
import {
  checkApplied,
  checkDowns,
  checkMissing,
  checkNames,
  checkSnapshots,
} from './audit-files.ts'
import { checkFinalState } from './audit-state.ts'
import { checkStatements } from './audit-statements.ts'
import { readStatements, textsOf } from './parse.ts'
import { nothingKnown, replay } from './replay.ts'

export type Severity = 'error' | 'warning' | 'info'

/** Something in a folder of migrations that is wrong, or could be better. */
export interface Finding {
  readonly rule: string
  readonly severity: Severity
  readonly migration: string
  /** The index of the statement. */
  readonly statement?: number
  /** Of the file, from 1. */
  readonly line?: number
  readonly message: string
  /** What mends it. */
  readonly mend: string
}

/** A migration as it is in its folder. */
export interface MigrationFile {
  readonly name: string
  /** The folder or list that it is in: names and numbers are its own. */
  readonly source: string
  readonly sql: string
  /** What undoes it; undefined where there is nothing. */
  readonly down?: string
  /** Its own id and those of the snapshots it builds on. */
  readonly snapshot?: { readonly id: string; readonly prevIds: readonly string[] }
  /** Whether it goes through data in TypeScript. */
  readonly hasScript?: boolean
  /** One folder a migration, as drizzle-kit has it; otherwise one file each. */
  readonly isFolder: boolean
}

/** A migration that a database has, as its ledger says. */
export interface AppliedMigration {
  readonly name: string
  /** Of its SQL: sha256, in hex. */
  readonly checksum?: string
}

export interface AuditOptions {
  /** Folders of migrations, in the order in which they run: one folder a migration, or flat .sql files. */
  folders?: readonly string[]
  /** The same, each under a name. */
  sources?: readonly { readonly name: string; readonly folder: string }[]
  /** Migrations that have been read already. */
  files?: readonly MigrationFile[]
  /** What a database has applied; what that tells is left out without it. */
  applied?: readonly AppliedMigration[]
  /** The oldest major version of Postgres that the migrations are for. */
  version?: number
  /** Whether squawk is asked too, where it is installed. */
  squawk?: boolean
}

const ORDER: readonly Severity[] = ['error', 'warning', 'info']

/**
 * What is wrong with folders of migrations, the worst first: their names and order, what is not applied,
 * what cannot be undone or run again, what will lock tables, and, of what they make in the end, tables
 * without policies and functions that are not safe to call.
 *
 * @throws {MigrationError} for a folder that cannot be read.
 */
export async function audit({
  folders = [],
  sources = [],
  files: given = [],
  applied,
  version,
  squawk,
}: AuditOptions): Promise<Finding[]> {
  const read = [
    ...sources.map(({ name, folder }) => readMigrationFiles(folder, name)),
    ...folders.map((folder) => readMigrationFiles(folder)),
  ]
  const files = [...(await Promise.all(read)).flat(), ...given]
  const known = nothingKnown()
  const findings: Finding[] = []
  for (const source of new Set(files.map((file) => file.source))) {
    const list = files.filter((file) => file.source === source)
    findings.push(...checkNames(list), ...checkSnapshots(list), ...checkDowns(list))
    if (applied) findings.push(...checkApplied(list, applied))
  }
  if (applied) findings.push(...checkMissing(files, applied))
  const names = new Set(applied?.map(({ name }) => name))
  for (const file of files) {
    const options = {
      known,
      isApplied: names.has(file.name),
      ...(version === undefined ? {} : { version }),
      ...(squawk === undefined ? {} : { squawk }),
    }
    findings.push(...(await checkStatements(file, options)))
    const { statements } = await readStatements(textsOf(file.sql))
    for (const statement of statements) replay(known, statement, file.name)
  }
  findings.push(...checkFinalState(known, files))
  const place = new Map(files.map(({ name }, index) => [name, index]))
  return findings.sort(
    (a, b) =>
      ORDER.indexOf(a.severity) - ORDER.indexOf(b.severity) ||
      (place.get(a.migration) ?? 0) - (place.get(b.migration) ?? 0) ||
      (a.line ?? 0) - (b.line ?? 0),
  )
}

/**
 * The migrations of a folder, in the order in which they run: its folders with a migration.sql, or its
 * .sql files, with the downs that lie beside them under the usual names.
 *
 * @throws {MigrationError} for a folder that cannot be read.
 */
async function readMigrationFiles(
  folder: string,
  source = basename(folder),
): Promise<MigrationFile[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: Error) => {
    throw new MigrationError(`${folder} cannot be read: ${error.message}`)
  })
  const names = (isWanted: (entry: (typeof entries)[number]) => boolean) =>
    entries.filter(isWanted).map(({ name }) => name)
  const found: MigrationFile[] = []
  for (const name of names((entry) => entry.isDirectory())) {
    const sql = await readText(join(folder, name, 'migration.sql'))
    if (sql === undefined) continue
    const down = await readText(join(folder, name, 'down.sql'))
    const snapshot = readSnapshot(await readText(join(folder, name, 'snapshot.json')))
    found.push({
      name,
      source,
      sql,
      isFolder: true,
      hasScript: (await readText(join(folder, name, 'migration.ts'))) !== undefined,
      ...(down === undefined ? {} : { down }),
      ...(snapshot === undefined ? {} : { snapshot }),
    })
  }
  const files = names((entry) => entry.isFile() && entry.name.endsWith('.sql'))
  for (const name of files.filter((name) => !isDown(name))) {
    const down = files.find((other) => isDown(other) && ups(other).includes(name))
    const text = down === undefined ? undefined : await readText(join(folder, down))
    const sql = (await readText(join(folder, name))) ?? ''
    found.push({
      name,
      source,
      sql,
      isFolder: false,
      ...(text === undefined ? {} : { down: text }),
    })
  }
  return found.sort((a, b) => byNumber(a.name, b.name))
}

/** `001_x.down.sql`, `001_x_down.sql`, `U1__x.sql`: what undoes another file. */
const isDown = (name: string) =>
  /[._-](down|rollback|undo)\.sql$/i.test(name) || /^U\d+__/.test(name)

/** The files that a down may belong to. */
function ups(down: string): string[] {
  if (/^U\d+__/.test(down)) return [down.replace(/^U/, 'V')]
  const stem = down.replace(/[._-](down|rollback|undo)\.sql$/i, '')
  return ['.sql', '.up.sql', '_up.sql', '-up.sql'].map((suffix) => stem + suffix)
}

/** By their numbers, since V10 comes after V9; by their names where those are the same. */
function byNumber(a: string, b: string): number {
  const [one = 0, other = 0] = [a, b].map((name) => BigInt(/\d+/.exec(name)?.[0] ?? '0'))
  return one < other ? -1 : one > other ? 1 : a < b ? -1 : 1
}

const readText = (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').catch(() => undefined)

function readSnapshot(text: string | undefined): MigrationFile['snapshot'] {
  if (text === undefined) return
  let read: unknown
  try {
    read = JSON.parse(text)
  } catch {
    return
  }
  if (typeof read !== 'object' || read === null || !('id' in read)) return
  const previous = 'prevIds' in read ? read.prevIds : 'prevId' in read ? [read.prevId] : []
  return { id: String(read.id), prevIds: Array.isArray(previous) ? previous.map(String) : [] }
}
