import { resolve, sep } from 'node:path'
import type { Database } from '../database.ts'
import { embedTexts } from '../embedding.ts'
import { migrate } from '../migrations/apply.ts'
import { listActivity, recordActivity } from '../queries/activity.ts'
import { spend } from '../queries/costs.ts'
import { createOrganization, findOrganizationBySlug, upsertUser } from '../queries/identity.ts'
import { addMember, listMembers } from '../queries/members.ts'
import { createPrice, importPrices, listPrices, priceUsage } from '../queries/prices.ts'
import { type SearchMatch, type SnippetPart, search } from '../queries/search.ts'
import { createSpace } from '../queries/spaces.ts'
import type { Space } from '../schema/search.ts'
import { inTenant, type Scope } from '../tenant.ts'
import { type CorpusFile, readText } from './corpus.ts'
import type { Embedder } from './embedder.ts'
import { type IndexReport, indexFiles } from './indexing.ts'
import type { MeteredModel } from './metered.ts'
import type { Progress } from './terminal.ts'

const ANSWERS = 3
const FEED = 8
const DAYS = 30
const DAY_MS = 86_400_000

/** Embedding models that the tokens are priced at for comparison, as the catalogue names them. */
const WHAT_IF = [
  { provider: 'openai', model: 'text-embedding-3-small' },
  { provider: 'openai', model: 'text-embedding-3-large' },
] as const

export interface TourOptions {
  folder: string
  files: readonly CorpusFile[]
  /** Made from the files' own headings unless given. */
  questions: readonly string[] | undefined
  embedder: Embedder
  progress: Progress
  signal: AbortSignal
}

interface Answer {
  question: string
  matches: (Pick<SearchMatch, 'similarity' | 'position' | 'vectorRank' | 'textRank'> & {
    rank: number
    file: string
    snippet: SnippetPart[]
  })[]
}

export interface TourReport {
  migrated: string[]
  organizations: string[]
  embedder: { model: string; dimensions: number; isOffline: boolean }
  folder: string
  index: IndexReport
  answers: Answer[]
  spend: {
    day: string
    model: string
    calls: number
    tokens: number
    /** Nano-dollars; null while no price is known. */
    costNanos: bigint | null
    /** What the same tokens would have cost, by model; null without a price. */
    whatIfNanos: Record<string, bigint | null>
  }[]
  activity: { at: Date; actor: string; action: string; resource: string }[]
  otherOrganization: { name: string; question: string; matches: number }
}

/** Goes through plinth's main job once: migrate, fill, ask, account for it, and show who sees what. */
export async function runTour(db: Database, options: TourOptions): Promise<TourReport> {
  const { embedder, progress, signal } = options
  const migrated = await migrate(db, {
    onProgress: ({ name, step, steps }) => progress.doing(`migration ${step} of ${steps}: ${name}`),
  })
  progress.done(migrated.length > 0 ? `migrated: ${migrated.join(', ')}` : 'nothing to migrate')
  signal.throwIfAborted()

  const { acme, globex } = await makeOrganizations(db)
  progress.done('two organizations: Acme (Ada, Grace) and Globex (Linus)')
  const space = await createSpace(db, {
    provider: embedder.model.provider,
    model: embedder.model.modelId,
    dimensions: embedder.dimensions,
  })
  await makePrices(db, embedder)

  const { model, countTokens } = embedder
  const index = await indexFiles(db, acme, { ...options, model, space, countTokens })
  progress.done(summary(index))

  const questions = options.questions ?? (await questionsFrom(options.files))
  const answers: Answer[] = []
  for (const question of questions) {
    signal.throwIfAborted()
    progress.doing(`asking: ${question}`)
    answers.push(await ask(db, acme, { model, space, question }))
  }
  const [question = ''] = questions
  const elsewhere = await ask(db, globex, { model, space, question })
  progress.done(`asked ${questions.length + 1} questions`)

  return {
    migrated,
    organizations: ['Acme', 'Globex'],
    embedder: {
      model: `${embedder.model.provider}/${embedder.model.modelId}`,
      dimensions: embedder.dimensions,
      isOffline: embedder.isOffline,
    },
    folder: resolve(options.folder),
    index,
    answers,
    spend: await reportSpend(db, acme),
    activity: await reportActivity(db, acme, resolve(options.folder)),
    otherOrganization: { name: 'Globex', question, matches: elsewhere.matches.length },
  }
}

/** Acme, with its owner Ada and its member Grace, and Globex, with its owner Linus; made once. */
async function makeOrganizations(db: Database): Promise<{ acme: Scope; globex: Scope }> {
  const user = (subject: string, displayName: string) =>
    upsertUser(db, {
      provider: 'plinth-demo',
      subject,
      displayName,
      email: `${subject}@demo.example`,
    })
  const [ada, grace, linus] = [
    await user('ada', 'Ada'),
    await user('grace', 'Grace'),
    await user('linus', 'Linus'),
  ]
  const organization = async (slug: string, name: string, ownerId: string): Promise<Scope> => {
    const { id } =
      (await findOrganizationBySlug(db, slug)) ??
      (await createOrganization(db, { slug, name, ownerId }))
    return { organizationId: id, userId: ownerId }
  }
  const acme = await organization('demo-acme', 'Acme', ada.id)
  const globex = await organization('demo-globex', 'Globex', linus.id)
  await inTenant(db, acme, async (tenant) => {
    const members = await listMembers(tenant)
    if (members.some(({ userId }) => userId === grace.id)) return
    await addMember(tenant, { userId: grace.id })
    await recordActivity(tenant, {
      action: 'member.added',
      resourceType: 'user',
      resourceId: grace.id,
      resourceName: 'Grace',
    })
  })
  return { acme, globex }
}

/** The catalogue's prices of embedding models; the offline model costs nothing, which is a price too. */
async function makePrices(db: Database, { model, isOffline }: Embedder): Promise<void> {
  await importPrices(db, { providers: [...new Set(WHAT_IF.map(({ provider }) => provider))] })
  if (!isOffline) return
  const own = { provider: model.provider, model: model.modelId }
  if ((await listPrices(db, own)).length > 0) return
  await createPrice(db, {
    ...own,
    unit: 'embedding',
    nanosPerMillion: 0n,
    validFrom: new Date('2020-01-01T00:00:00Z'),
  })
}

interface AskOptions {
  model: MeteredModel
  space: Space
  question: string
}

/** Asks an organization's documents, by meaning and by words. The question's embedding is paid for too. */
async function ask(
  db: Database,
  scope: Scope,
  { model, space, question }: AskOptions,
): Promise<Answer> {
  const { embeddings } = await embedTexts(model, [question])
  const { matches } = await inTenant(db, scope, async (tenant) => {
    await model.record(tenant, 'demo/ask')
    return search(tenant, {
      query: question,
      embedding: embeddings[0],
      space,
      limit: ANSWERS,
      snippets: true,
      record: true,
    })
  })
  model.settle()
  return {
    question,
    matches: matches.map(({ similarity, position, vectorRank, textRank, ...match }, at) => ({
      ...{ rank: at + 1, similarity, position, vectorRank, textRank },
      file: String(match.metadata.file ?? match.sourceId),
      snippet: markWords(match, question),
    })),
  }
}

/** The snippet; where full text has found no word of the question, the words that look alike are marked. */
function markWords(
  { snippet = [], content }: Pick<SearchMatch, 'snippet' | 'content'>,
  question: string,
): SnippetPart[] {
  if (snippet.some(({ isMatch }) => isMatch)) return snippet
  const text = content.slice(0, 240)
  const stems = (question.match(/[\p{L}\p{N}]{4,}/gu) ?? []).map((word) => word.slice(0, 5))
  if (stems.length === 0) return [{ text, isMatch: false }]
  // Split by a group, the matches stand at the odd places.
  return text
    .split(new RegExp(`\\b((?:${stems.join('|')})[\\p{L}\\p{N}]*)`, 'giu'))
    .map((part, at) => ({ text: part, isMatch: at % 2 === 1 }))
    .filter((part) => part.text !== '')
}

/** What three of the files' own headings ask. */
async function questionsFrom(files: readonly CorpusFile[]): Promise<string[]> {
  const headings: string[] = []
  for (const file of files) {
    const read = await readText(file)
    if (typeof read === 'string') continue
    const heading = /^#{1,6}\s+(.{4,80})$/m.exec(read.text)?.[1] ?? /\S.{3,80}/.exec(read.text)?.[0]
    if (heading) headings.push(`What about ${heading.replace(/[#*`?]/g, '').trim()}?`)
  }
  const step = Math.max(1, Math.floor(headings.length / 3))
  return headings.filter((_, at) => at % step === 0).slice(0, 3)
}

/** The last 30 days, oldest first, and what the same tokens would have cost elsewhere. */
async function reportSpend(db: Database, scope: Scope): Promise<TourReport['spend']> {
  const since = new Date(Date.now() - DAYS * DAY_MS)
  const rows = await inTenant(db, scope, (tenant) =>
    spend(tenant, { since, period: 'day', by: 'model', limit: 500 }),
  )
  const prices = await Promise.all(
    WHAT_IF.map(async (model) => ({ model, prices: await listPrices(db, model) })),
  )
  return rows.map(({ period, model, events, unpriced, tokens, costNanos }) => ({
    day: period.toISOString().slice(0, 10),
    model,
    calls: events,
    tokens,
    costNanos: unpriced > 0 ? null : costNanos,
    whatIfNanos: Object.fromEntries(
      prices.map(({ model, prices }) => [
        model.model,
        priceUsage(prices, { embeddingTokens: tokens }).costNanos,
      ]),
    ),
  }))
}

/** The latest lines of the log, newest first. */
async function reportActivity(
  db: Database,
  scope: Scope,
  folder: string,
): Promise<TourReport['activity']> {
  return inTenant(db, scope, async (tenant) => {
    const names = new Map(
      (await listMembers(tenant)).map(({ userId, displayName }) => [userId, displayName]),
    )
    const entries = await listActivity(tenant, { limit: FEED })
    return entries.map(({ occurredAt, actorId, action, resourceName, resourceId }) => ({
      at: occurredAt,
      actor: names.get(actorId ?? '') ?? 'system',
      action,
      resource: (resourceName ?? resourceId ?? '').replace(folder + sep, ''),
    }))
  })
}

/** What the indexing came to, in a line. */
export function summary({ files, changed, unchanged, removed, skipped, ...chunks }: IndexReport) {
  const parts = [
    `${changed} of ${files} files changed`,
    unchanged > 0 && `${unchanged} unchanged`,
    removed > 0 && `${removed} removed`,
    skipped.length > 0 && `${skipped.length} skipped`,
  ].filter(Boolean)
  return `${parts.join(', ')}; ${chunks.embedded} chunks embedded, ${chunks.kept} kept as they were`
}
