import { dirname, relative } from 'node:path'
import { Command } from 'commander'
import { OpenQuestionsError } from '../migrations/renames.ts'
import { print, printable, progress, UsageError } from './terminal.ts'

interface GenerateCommandOptions {
  rename: { from: string; to: string }[]
  create: string[]
  config?: string
  prove: boolean
  json?: boolean
}

const rename = (text: string, before: { from: string; to: string }[]) => {
  const [from, to, ...rest] = text.split('=')
  if (!from || !to || rest.length > 0) {
    throw new UsageError(`--rename ${text} names no two things; write --rename old=new`)
  }
  return [...before, { from, to }]
}

export function generateCommand(): Command {
  return new Command('generate')
    .description('write the migration from the last one to what the schema files declare')
    .argument('[name]', 'what to call it')
    .option('--rename <old=new>', 'a table, column, enum or schema that was renamed', rename, [])
    .option(
      '--create <name>',
      'what is new although something else is gone',
      (name: string, before: string[]) => [...before, name],
      [],
    )
    .option('--config <path>', 'the config file (default: drizzle.config.ts)')
    .option('--no-prove', 'write it without running it on a scratch database first')
    .option('--json', 'print JSON')
    .action(async (name: string | undefined, options: GenerateCommandOptions) => {
      const { json = false, config, prove } = options
      const ui = progress(json)
      // Parsers and loaders that no other command needs.
      const { generate } = await import('../migrations/generate.ts')
      ui.doing(prove ? 'planning, and proving on a scratch database' : 'planning')
      try {
        const made = await generate({
          cwd: process.cwd(),
          prove,
          renames: options.rename,
          creates: options.create,
          ...(name !== undefined && { name }),
          ...(config !== undefined && { config }),
        })
        if (json) return print(JSON.stringify({ migration: made ?? null }))
        if (!made) return print('nothing to generate')
        if (made.unproved) ui.done(`not proved: ${made.unproved}`)
        for (const statement of made.statements) print(`  ${summary(statement)}`)
        const folder = relative(process.cwd(), dirname(made.path))
        print(`wrote ${folder}: migration.sql, down.sql, snapshot.json, objects.json`)
      } catch (error) {
        if (!(error instanceof OpenQuestionsError)) throw error
        if (json) print(JSON.stringify({ questions: error.questions }))
        for (const { kind, name, answers } of json ? [] : error.questions) {
          print(`${kind} ${name}: ${answers.join(' or ')}`)
        }
        throw new UsageError('renamed, or dropped and new? Generate again with one flag for each')
      }
    })
}

/** The first line of a statement that says something. */
const summary = (statement: string) => {
  const line = statement.split('\n').find((it) => it.trim() !== '' && !it.startsWith('-- plinth:'))
  const text = printable(line ?? '')
  return text.length > 100 ? `${text.slice(0, 99)}…` : text
}
