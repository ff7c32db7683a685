import { createHash } from 'node:crypto'
import type { AppliedMigration, Finding, MigrationFile } from './audit.ts'

/** The parent of the first snapshot. */
const NO_SNAPSHOT = '00000000-0000-0000-0000-000000000000'

/** The number that a migration's name begins with, as it is written. */
const stampOf = (name: string): string | undefined => /^[VvU]?(\d+)/.exec(name)?.[1]

/** What a migration is called besides its number. */
const titleOf = (name: string): string =>
  name
    .replace(/^[VvU]?\d+[._-]*/, '')
    .replace(/([._-]up)?\.sql$/i, '')
    .toLowerCase()

function isDate(stamp: string): boolean {
  const [, date = '', time = ''] = /^(\d{8})(\d{6})$/.exec(stamp) ?? []
  const iso = `${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}T${time.slice(0, 2)}:${time.slice(2, 4)}:${time.slice(4)}.000Z`
  const parsed = new Date(iso)
  return !Number.isNaN(parsed.getTime()) && parsed.toISOString() === iso
}

const checksumOf = (sql: string) => createHash('sha256').update(sql).digest('hex')

/** Numbers, and what two migrations have in common that each must have for itself. */
export function checkNames(files: readonly MigrationFile[]): Finding[] {
  const found: Finding[] = []
  const stamps = new Map<bigint, string>()
  const titles = new Map<string, string>()
  const contents = new Map<string, string>()
  for (const { name, sql, isFolder } of files) {
    const stamp = stampOf(name)
    if (stamp === undefined) {
      found.push({
        rule: 'number-missing',
        severity: 'error',
        migration: name,
        message: 'its name begins with no number: what it comes after is not said',
        mend: isFolder
          ? 'rename it to YYYYMMDDHHMMSS_name, unless a database has it already'
          : 'give it the next number, unless a database has it already',
      })
    } else {
      const before = stamps.get(BigInt(stamp))
      if (before !== undefined) {
        found.push({
          rule: 'number-duplicate',
          severity: 'error',
          migration: name,
          message: `has the same number as ${before}: which of them runs first is chance`,
          mend: 'give the later one a number of its own, unless a database has it already',
        })
      } else stamps.set(BigInt(stamp), name)
      if (isFolder && !isDate(stamp)) {
        found.push({
          rule: 'number-format',
          severity: stamp.length === 14 ? 'error' : 'warning',
          migration: name,
          message:
            stamp.length === 14
              ? `${stamp} is no date and time`
              : `its number has ${stamp.length} digits and not 14, and may not sort as it counts`,
          mend: 'name it YYYYMMDDHHMMSS_name, unless a database has it already',
        })
      }
    }
    const title = titleOf(name)
    const namesake = titles.get(title)
    if (title && namesake !== undefined) {
      found.push({
        rule: 'name-duplicate',
        severity: 'info',
        migration: name,
        message: `is called like ${namesake}`,
        mend: 'call it by what it changes, unless a database has it already',
      })
    } else titles.set(title, name)
    const content = sql.replace(/\s+/g, ' ').trim()
    const twin = contents.get(content)
    if (content && twin !== undefined) {
      found.push({
        rule: 'content-duplicate',
        severity: 'warning',
        migration: name,
        message: `does the same as ${twin}`,
        mend: 'remove one of them, unless a database has both already',
      })
    } else contents.set(content, name)
  }
  return [...found, ...checkGaps(files)]
}

/** Numbers that are left out, where they count one by one. */
function checkGaps(files: readonly MigrationFile[]): Finding[] {
  const numbered = files.flatMap(({ name }) => {
    const stamp = stampOf(name)
    // From eight digits on it is a date.
    return stamp !== undefined && stamp.length < 8 ? [{ name, number: Number(stamp) }] : []
  })
  const found: Finding[] = []
  for (const [at, { name, number }] of numbered.entries()) {
    const before = numbered[at - 1]
    if (!before || number - before.number < 2) continue
    const [first, last] = [before.number + 1, number - 1]
    found.push({
      rule: 'number-gap',
      severity: 'warning',
      migration: name,
      message: `comes after ${before.name}: ${first === last ? first : `${first} to ${last}`} is missing`,
      mend: 'find what was there, or say in a comment that nothing was',
    })
  }
  return found
}

/** The chain that drizzle-kit's snapshots make: each but the first builds on one that is there. */
export function checkSnapshots(files: readonly MigrationFile[]): Finding[] {
  const found: Finding[] = []
  const ids = new Set(files.flatMap(({ snapshot }) => (snapshot ? [snapshot.id] : [])))
  const children = new Map<string, string>()
  for (const { name, snapshot } of files) {
    const say = (rule: string, message: string, mend: string) =>
      found.push({ rule, severity: 'error', migration: name, message, mend })
    if (!snapshot) continue
    for (const parent of snapshot.prevIds) {
      const sibling = children.get(parent)
      if (sibling !== undefined) {
        const merges = files.some(
          (other) =>
            other.snapshot?.prevIds.includes(snapshot.id) && other.snapshot.prevIds.length > 1,
        )
        if (!merges) {
          say(
            'snapshot-fork',
            `builds on the same snapshot as ${sibling}: each was made without the other`,
            'remove the later one and generate it again on top of the other',
          )
        }
      } else children.set(parent, name)
      if (parent !== NO_SNAPSHOT && !ids.has(parent)) {
        say(
          'snapshot-parent',
          `builds on snapshot ${parent}, which is in no migration`,
          'bring back the migration that is missing, or generate this one again',
        )
      }
    }
  }
  const kept = files.filter(({ isFolder }) => isFolder)
  if (kept.some(({ snapshot }) => snapshot)) {
    for (const { name, snapshot } of kept) {
      if (snapshot) continue
      found.push({
        rule: 'snapshot-missing',
        severity: 'warning',
        migration: name,
        message: 'has no snapshot.json: the next one generated does not know what it changed',
        mend: 'generate it with drizzle-kit, as a custom migration where it is written by hand',
      })
    }
  }
  return found
}

/** What a database has, against what is in the files of one source. */
export function checkApplied(
  files: readonly MigrationFile[],
  applied: readonly AppliedMigration[],
): Finding[] {
  const byName = new Map(applied.map((each) => [each.name, each]))
  const newest = files.findLastIndex(({ name }) => byName.has(name))
  const found: Finding[] = []
  for (const [at, { name, sql }] of files.entries()) {
    const entry = byName.get(name)
    if (!entry) {
      const isLate = at < newest
      found.push({
        rule: isLate ? 'applied-late' : 'applied-never',
        severity: isLate ? 'error' : 'info',
        migration: name,
        message: isLate
          ? 'was never applied, though one that comes after it was'
          : 'was never applied',
        mend: isLate ? 'apply it by itself, or give it a later number' : 'apply it',
      })
    } else if (entry.checksum !== undefined && entry.checksum !== checksumOf(sql)) {
      found.push({
        rule: 'applied-edited',
        severity: 'error',
        migration: name,
        message: 'was edited after it was applied',
        mend: 'bring the applied text back, and put the change into a new migration',
      })
    }
  }
  return found
}

/** What a database has, and no folder. */
export function checkMissing(
  files: readonly MigrationFile[],
  applied: readonly AppliedMigration[],
): Finding[] {
  const names = new Set(files.map(({ name }) => name))
  return applied
    .filter(({ name }) => !names.has(name))
    .map(({ name }) => ({
      rule: 'applied-missing',
      severity: 'error',
      migration: name,
      message: 'was applied, and is in no folder',
      mend: 'bring the file back from version control',
    }))
}

/** Migrations that nothing undoes. */
export function checkDowns(files: readonly MigrationFile[]): Finding[] {
  return files.flatMap(({ name, down }): Finding[] => {
    if (down?.replace(/--.*/g, '').trim()) return []
    return [
      {
        rule: down === undefined ? 'down-missing' : 'down-empty',
        severity: 'warning',
        migration: name,
        message:
          down === undefined
            ? 'has no down: it cannot be undone'
            : 'its down is empty: undoing it changes nothing',
        mend: 'write what undoes it, or say in its down why nothing can',
      },
    ]
  })
}
