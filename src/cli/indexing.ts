import { resolve, sep } from 'node:path'
import type { Database } from '../database.ts'
import { recordActivity } from '../queries/activity.ts'
import { listSources } from '../queries/chunks.ts'
import { indexSource, removeSource } from '../queries/sources.ts'
import type { Space } from '../schema/search.ts'
import { inTenant, type Scope, type Tenant } from '../tenant.ts'
import { type CorpusFile, readText, type TextFile } from './corpus.ts'
import type { MeteredModel } from './metered.ts'
import type { Progress } from './terminal.ts'

/** As what the files are indexed. Which one, its absolute path says. */
const DOCUMENT = 'document'

export interface IndexReport {
  files: number
  /** Of which something was embedded. */
  changed: number
  unchanged: number
  removed: number
  /** Files that could not be read, and why. */
  skipped: { name: string; reason: string }[]
  chunks: number
  embedded: number
  kept: number
}

export interface IndexFilesOptions {
  folder: string
  files: readonly CorpusFile[]
  model: MeteredModel
  space: Space
  countTokens: (text: string) => number
  progress: Progress
  signal: AbortSignal
}

/**
 * Makes what is found of a folder what its files are now. A file's chunks, its line in the cost ledger
 * and its line in the activity log are one transaction: an interruption leaves whole files only.
 */
export async function indexFiles(
  db: Database,
  scope: Scope,
  options: IndexFilesOptions,
): Promise<IndexReport> {
  const { files, progress, signal } = options
  const report: IndexReport = {
    ...{ files: files.length, changed: 0, unchanged: 0, removed: 0, skipped: [] },
    ...{ chunks: 0, embedded: 0, kept: 0 },
  }
  for (const [at, file] of files.entries()) {
    signal.throwIfAborted()
    progress.doing(`indexing ${at + 1} of ${files.length}: ${file.name}`)
    const read = await readText(file)
    if (typeof read === 'string') {
      report.skipped.push({ name: file.name, reason: read })
      continue
    }
    const indexed = await inTenant(db, scope, (tenant) => indexFile(tenant, file, read, options))
    options.model.settle()
    const isChanged = indexed.added + indexed.removed + indexed.embedded > 0
    report[isChanged ? 'changed' : 'unchanged'] += 1
    report.chunks += indexed.chunks
    report.embedded += indexed.embedded
    report.kept += indexed.kept
  }
  report.removed = await inTenant(db, scope, (tenant) => removeMissing(tenant, options))
  return report
}

async function indexFile(
  tenant: Tenant,
  file: CorpusFile,
  { text, modifiedAt }: TextFile,
  { model, space, countTokens, signal }: IndexFilesOptions,
) {
  const indexed = await indexSource(tenant, {
    sourceType: DOCUMENT,
    sourceId: file.path,
    text,
    format: file.format,
    model,
    space,
    countTokens,
    signal,
    metadata: { file: file.name },
    occurredAt: modifiedAt,
  })
  await model.record(tenant, 'demo/index')
  if (indexed.added + indexed.removed > 0) {
    await recordActivity(tenant, {
      action: indexed.kept > 0 ? 'document.updated' : 'document.indexed',
      resourceType: DOCUMENT,
      resourceId: file.path,
      resourceName: file.name,
      changes: { added: indexed.added, removed: indexed.removed },
    })
  }
  return indexed
}

/** Removes what is indexed of files of the folder that are there no more. */
async function removeMissing(tenant: Tenant, { folder, files }: IndexFilesOptions) {
  const root = resolve(folder) + sep
  const present = new Set(files.map(({ path }) => path))
  let removed = 0
  let after: string | undefined
  for (;;) {
    const page = await listSources(tenant, { sourceType: DOCUMENT, after, limit: 500 })
    for (const { sourceId } of page) {
      if (!sourceId.startsWith(root) || present.has(sourceId)) continue
      await removeSource(tenant, { sourceType: DOCUMENT, sourceId })
      await recordActivity(tenant, {
        action: 'document.removed',
        resourceType: DOCUMENT,
        resourceId: sourceId,
        resourceName: sourceId.slice(root.length),
      })
      removed += 1
    }
    after = page.at(-1)?.sourceId
    if (page.length < 500) return removed
  }
}
