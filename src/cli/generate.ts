import { dirname, relative } from 'node:path'
import { Command } from 'commander'
import pc from 'picocolors'
import type { Advice, Effect } from '../migrations/advice/advice.ts'
import { OpenQuestionsError } from '../migrations/generate/renames.ts'
import { print, printable, progress, UsageError } from './terminal.ts'

interface GenerateCommandOptions {
  rename: { from: string; to: string }[]
  create: string[]
  config?: string
  plain?: boolean
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
    .option('--plain', 'leave statements that keep others waiting as drizzle-kit writes them')
    .option('--no-prove', 'write it without running it on a scratch database first')
    .option('--json', 'print JSON')
    .action(async (name: string | undefined, options: GenerateCommandOptions) => {
      const { json = false, config, plain = false, prove } = options
      const ui = progress(json)
      // Parsers and loaders that no other command needs.
      const { generate } = await import('../migrations/generate/generate.ts')
      ui.doing(prove ? 'planning, and proving on a scratch database' : 'planning')
      try {
        const made = await generate({
          cwd: process.cwd(),
          prove,
          harden: !plain,
          renames: options.rename,
          creates: options.create,
          ...(name !== undefined && { name }),
          ...(config !== undefined && { config }),
        })
        if (json) return print(JSON.stringify({ migration: made ?? null }))
        if (!made) return print('nothing to generate')
        if (made.unproved) ui.done(`not proved: ${made.unproved}`)
        for (const statement of made.statements) print(`  ${summary(statement)}`)
        for (const line of adviceLines(made.advice)) print(line)
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

/** The worst first; what waits for a moment only is not worth a line. */
function adviceLines(advice: readonly Advice[]): string[] {
  const worth = advice.filter(({ lasts, effect }) => lasts !== 'moment' && effect !== 'style')
  const order: Effect[] = ['loses', 'rewrites', 'fails', 'breaks', 'locks']
  return worth
    .toSorted((a, b) => order.indexOf(a.effect) - order.indexOf(b.effect))
    .flatMap(({ statement, effect, message, alternative }) => [
      `${effect === 'loses' ? pc.red('!') : pc.yellow('!')} statement ${statement + 1} ${printable(message)}`,
      ...(alternative ? [`    instead: ${printable(alternative)}`] : []),
    ])
}

/** The first line of a statement that says something. */
const summary = (statement: string) => {
  const line = statement.split('\n').find((it) => it.trim() !== '' && !it.startsWith('-- plinth:'))
  const text = printable(line ?? '').replace(/^-- /, '')
  return text.length > 100 ? `${text.slice(0, 99)}…` : text
}
