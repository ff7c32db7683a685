import Table from 'cli-table3'
import { Command } from 'commander'
import { ensurePartitions, listPartitions } from '../lifecycle/partitions.ts'
import { type TargetOptions, targetOptions, withDatabase } from './connection.ts'
import { print, progress, UsageError } from './terminal.ts'

interface PartitionsCommandOptions extends TargetOptions {
  from?: Date
  to?: Date
  json?: boolean
}

const month = (text: string): Date => {
  if (!/^\d{4}-(0[1-9]|1[0-2])$/.test(text))
    throw new UsageError(`${text} is no month: write YYYY-MM`)
  return new Date(`${text}-01T00:00:00Z`)
}

export function partitionsCommand(): Command {
  const command = new Command('partitions')
    .description('make the monthly partitions that are missing, and list what there is')
    .option('--from <month>', 'first month, as YYYY-MM (default: this one)', month)
    .option('--to <month>', 'last month, as YYYY-MM (default: twelve later)', month)
    .option('--json', 'print JSON')
    .action(async ({ from, to, json = false, ...target }: PartitionsCommandOptions) => {
      const ui = progress(json)
      const { made, tables } = await withDatabase(target, ui, async (db) => ({
        made: await ensurePartitions(db, { from, to }),
        tables: await listPartitions(db),
      }))
      if (json) return print(JSON.stringify({ made, tables }))
      const output = new Table({
        head: ['table', 'made', 'months', 'from', 'until'],
        style: { head: [], border: [] },
      })
      for (const { table, count, from, to } of tables) {
        const added = made.find((one) => one.table === table)?.made ?? 0
        output.push([table, added, count, day(from), day(to)])
      }
      print(output.toString())
    })
  for (const option of targetOptions()) command.addOption(option)
  return command
}

const day = (time: Date | undefined) => time?.toISOString().slice(0, 10) ?? '-'
