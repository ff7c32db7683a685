import { type Command, InvalidArgumentError } from 'commander'
import { migrateTo, planRevert, planTo, revert } from '../../migrations/revert.ts'
import { print } from '../terminal.ts'
import {
  migrationCommand,
  printPlan,
  type RunCommandOptions,
  runOf,
  runOptions,
  withMigrations,
} from './shared.ts'

interface DownOptions extends RunCommandOptions {
  allowDataLoss?: boolean
  dryRun?: boolean
}

const count = (text: string): number => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('write a whole number.')
  return value
}

const reverting = (name: string, description: string): Command => {
  const command = migrationCommand(name, description)
    .option('--allow-data-loss', 'go on though rows or values would be lost')
    .option('--dry-run', 'print the SQL that would run and what would be lost, and change nothing')
  for (const option of runOptions()) command.addOption(option)
  return command
}

export function downCommand(): Command {
  return reverting('down', 'take the last migrations back')
    .argument('[n]', 'how many', count, 1)
    .action(async (n: number, options: DownOptions) => {
      const { allowDataLoss = false, dryRun = false, json = false } = options
      await withMigrations(options, async ({ db, sources, ui }) => {
        const all = { sources, ...runOf(options, ui), count: n, allowDataLoss }
        if (dryRun) return printPlan(await planRevert(db, all), json)
        const reverted = await revert(db, all)
        for (const name of reverted) ui.done(`reverted ${name}`)
        if (json) print(JSON.stringify({ reverted }))
        else print(reverted.length > 0 ? `${reverted.length} reverted` : 'nothing to revert')
      })
    })
}

export function toCommand(): Command {
  return reverting('to', 'bring the database to one migration, forwards or backwards')
    .argument('<migration>', 'its name, the beginning of it, or its number; or: nothing')
    .action(async (to: string, options: DownOptions) => {
      const { allowDataLoss = false, dryRun = false, json = false } = options
      await withMigrations(options, async ({ db, sources, ui }) => {
        const all = { sources, ...runOf(options, ui), allowDataLoss }
        if (dryRun) return printPlan(await planTo(db, to, all), json)
        const { reverted, applied } = await migrateTo(db, to, all)
        for (const name of reverted) ui.done(`reverted ${name}`)
        for (const name of applied) ui.done(`applied ${name}`)
        if (json) print(JSON.stringify({ reverted, applied }))
        else print(`${reverted.length} reverted, ${applied.length} applied`)
      })
    })
}
