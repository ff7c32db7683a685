import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { targetOptions, withDatabase } from './connection.ts'
import { listCorpus } from './corpus.ts'
import { loadEmbedder } from './embedder.ts'
import { renderReport, toJson } from './report.ts'
import { InterruptedError, print, progress, UsageError } from './terminal.ts'
import { runTour } from './tour.ts'

interface DemoCommandOptions {
  query?: string[]
  data?: string
  url?: string
  config?: string
  json?: boolean
}

/** The documentation that comes with the package. */
const DOCS = fileURLToPath(new URL('../../docs', import.meta.url))

const QUESTIONS = [
  'How is a tenant scope entered?',
  'What happens when a model has no price?',
  'How does search choose between an exact scan and the HNSW index?',
]

const collect = (value: string, before: string[] = []) => [...before, value]

export function demoCommand(): Command {
  const command = new Command('demo')
    .description(
      'index a folder of text and query it, with tenants, costs and activity; it makes two organizations and three users of its own',
    )
    .argument('[folder]', 'Markdown and text files (default: plinth’s own documentation)')
    .option('--query <text>', 'a question to ask; may be repeated', collect)
    .option('--config <file>', 'exports `embedding`, an AI SDK embedding model')
    .option('--json', 'print JSON')
    .action(runDemo)
  for (const option of targetOptions()) command.addOption(option)
  return command
}

async function runDemo(
  folder: string | undefined,
  { query, config, json = false, ...target }: DemoCommandOptions,
): Promise<void> {
  for (const text of query ?? []) if (text.trim() === '') throw new UsageError('--query is empty')
  const files = await listCorpus(folder ?? DOCS)
  const embedder = await loadEmbedder(config)
  const ui = progress(json)

  const abort = new AbortController()
  const interrupt = () =>
    abort.abort(new InterruptedError('stopped; run it again to go on from here'))
  process.once('SIGINT', interrupt)
  try {
    const report = await withDatabase(target, ui, (db) =>
      runTour(db, {
        folder: folder ?? DOCS,
        files,
        questions: query ?? (folder ? undefined : QUESTIONS),
        embedder,
        progress: ui,
        signal: abort.signal,
      }),
    )
    print(json ? toJson(report) : renderReport(report))
  } finally {
    process.off('SIGINT', interrupt)
  }
}
