import Table from 'cli-table3'
import type { Command } from 'commander'
import pc from 'picocolors'
import {
  type MigrationState,
  type MigrationStatus,
  migrationStatus,
} from '../../migrations/status.ts'
import { FailedCheck, print, printable } from '../terminal.ts'
import { migrationCommand, type SharedOptions, withMigrations } from './shared.ts'

interface StatusOptions extends SharedOptions {
  check?: boolean
}

const FINE: readonly MigrationState[] = ['applied', 'imported', 'retired', 'running']

export function statusCommand(): Command {
  return migrationCommand(
    'status',
    'list every migration, with who applied it, when, and how long it took',
  )
    .option('--check', 'exit with 1 also if one is pending')
    .action(async (options: StatusOptions) => {
      const { check = false, json = false } = options
      await withMigrations(options, async ({ db, sources }) => {
        const statuses = await migrationStatus(db, { sources })
        print(json ? JSON.stringify({ migrations: statuses }) : formatStatus(statuses))
        const wrong = statuses.filter(
          ({ state }) => !FINE.includes(state) && (check || state !== 'pending'),
        )
        if (wrong.length > 0) throw new FailedCheck()
      })
    })
}

const COLOURS: Partial<Record<MigrationState, (text: string) => string>> = {
  applied: pc.green,
  pending: pc.yellow,
  running: pc.yellow,
  imported: pc.dim,
  retired: pc.dim,
}

function formatStatus(statuses: readonly MigrationStatus[]): string {
  if (statuses.length === 0) return 'no migrations'
  const table = new Table({
    head: ['', 'migration', 'of', 'state', 'applied (UTC)', 'by', 'took'],
    style: { head: [], border: [] },
  })
  const notes: string[] = []
  for (const [at, status] of statuses.entries()) {
    const { name, source, state, appliedAt, appliedBy, durationMs, step, steps } = status
    const colour = COLOURS[state] ?? pc.red
    const part =
      state === 'failed' || state === 'reverting' ? ` (step ${step} of ${steps} done)` : ''
    table.push([
      at + 1,
      printable(name),
      printable(source),
      `${colour(state)}${part}`,
      appliedAt?.toISOString().slice(0, 19).replace('T', ' ') ?? '-',
      printable(appliedBy ?? '-'),
      durationMs === undefined ? '-' : duration(durationMs),
    ])
    notes.push(...notesOf(status))
  }
  return [table.toString(), summary(statuses), ...notes].join('\n')
}

function notesOf({ name, error, difference, previousName }: MigrationStatus): string[] {
  return [
    ...(error ? [`${name}: ${printable(error)}`] : []),
    ...(previousName ? [`${name}: was applied as ${previousName}`] : []),
    ...(difference ? [`${name}: ${difference}`] : []),
  ]
}

function summary(statuses: readonly MigrationStatus[]): string {
  const counts = new Map<string, number>()
  for (const { state } of statuses) counts.set(state, (counts.get(state) ?? 0) + 1)
  return [...counts].map(([state, count]) => `${count} ${state}`).join(', ')
}

const duration = (ms: number) =>
  ms < 1_000
    ? `${Math.round(ms)} ms`
    : ms < 60_000
      ? `${(ms / 1_000).toFixed(1)} s`
      : `${(ms / 60_000).toFixed(1)} min`
