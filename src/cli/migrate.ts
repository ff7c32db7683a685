import { Command } from 'commander'
import { auditCommand } from './migrate/audit.ts'
import { baselineCommand } from './migrate/baseline.ts'
import { createCommand } from './migrate/create.ts'
import { downCommand, toCommand } from './migrate/down.ts'
import { statusCommand } from './migrate/status.ts'
import { upCommand } from './migrate/up.ts'
import { verifyCommand } from './migrate/verify.ts'

/** The commands of migrations; without the name of one, `up`. */
export function migrateCommand(): Command {
  const command = new Command('migrate').description(
    'apply migrations, take them back, and look at them (without a command: up)',
  )
  for (const one of [
    statusCommand(),
    downCommand(),
    toCommand(),
    verifyCommand(),
    createCommand(),
    baselineCommand(),
    auditCommand(),
  ]) {
    command.addCommand(one)
  }
  return command.addCommand(upCommand(), { isDefault: true })
}
