import type { LanguageModelMiddleware } from 'ai'
import { type Database, mapErrors } from '../database.ts'
import { type EmbeddingModel, pricedProvider } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import { type RecordUsageOptions, recordUsages } from '../queries/usage.ts'
import { uuidV7 } from '../schema/columns.ts'
import { asService, inTenant, type Scope, type Tenant } from '../tenant.ts'
import { checkProvider } from '../validation.ts'

/** How many calls wait for a ledger that refuses them; an older one is given up then. */
const MAX_WAITING = 1_000

/** Where usage is recorded: in a scope that is open, in transactions of its own, or in nobody's name. */
export type Ledger =
  | { tenant: Tenant }
  | { db: Database; scope: Scope }
  | { db: Database; organizationId: string }

export interface MeterOptions
  extends Pick<RecordUsageOptions, 'endpoint' | 'projectId' | 'runId' | 'userId' | 'metadata'> {
  ledger: Ledger
  /** What was done; `embedding` or `chat` unless said. */
  operation?: string
  /** As prices have it; the first word of the model's own unless said: `openai` of `openai.chat`. */
  provider?: string
  /**
   * Of a text, where the provider does not say how many tokens a call had; a quarter of its characters unless said,
   * and where it throws.
   */
  countTokens?: (text: string) => number
  /** Told that the ledger did not take calls, or that some were given up. */
  onLedgerError?: (error: unknown, waiting: number) => void
}

type CountTokens = (text: string) => number

const quarter: CountTokens = (text) => Math.ceil(text.length / 4)

/** Counts as is said, and never throws: an answer is not lost for its tokens. */
const counterOf =
  ({ countTokens = quarter }: MeterOptions): CountTokens =>
  (text) => {
    try {
      return countTokens(text)
    } catch {
      return quarter(text)
    }
  }

/** What records calls, and keeps those that the ledger did not take. */
export interface Meter {
  /** Records what waits. Rejects if the ledger does not take it. */
  flush(): Promise<void>
}

/** An embedding model of the AI SDK, of specification v2 or v3, as that is what the SDK itself takes. */
export type MeteredModel<Model> = Model & Meter

/**
 * The same embedding model, with each of its calls on record: tokens, latency, cost. For `embed` and
 * `embedMany` of the AI SDK, and for `indexSource` and `embedTexts`.
 *
 * A ledger that fails costs no vectors: they are returned, and the call waits to be recorded with the next
 * one, or by `flush`. Each has an idempotency key, so that none is recorded twice. In a transaction of the
 * embedded database only `tenant` can record at once, in a savepoint; `db` waits until it has ended.
 */
export function meteredModel<Model extends EmbeddingModel>(
  model: Model,
  options: MeterOptions,
): MeteredModel<Model> {
  const countTokens = counterOf(options)
  const { record, flush } = openMeter(options)
  const doEmbed: EmbeddingModel['doEmbed'] = async (call) => {
    const started = performance.now()
    const answer = await model.doEmbed(call)
    const tokens = countOf(answer.usage?.tokens)
    await record(model, {
      operation: options.operation ?? 'embedding',
      embeddingTokens: tokens ?? call.values.reduce((sum, text) => sum + countTokens(text), 0),
      status: tokens === undefined ? 'estimated' : undefined,
      latencyMs: Math.round(performance.now() - started),
    })
    return answer
  }
  return withMethods(model, { doEmbed, flush })
}

/** A number of tokens; undefined for none that is one, such as the NaN of a provider that says nothing. */
const countOf = (tokens: number | undefined): number | undefined =>
  Number.isSafeInteger(tokens) && Number(tokens) >= 0 ? tokens : undefined

/** The model itself for all but these methods, whatever kind of object it is. */
function withMethods<Model extends object, Methods extends object>(model: Model, methods: Methods) {
  const handler: ProxyHandler<Model> = {
    get(target, key) {
      if (Object.hasOwn(methods, key)) return Reflect.get(methods, key)
      const value = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
    has: (target, key) => Object.hasOwn(methods, key) || key in target,
  }
  return new Proxy(model, handler) as Model & Methods
}

type Call = Omit<RecordUsageOptions, 'provider' | 'model' | 'status'> & {
  status?: RecordUsageOptions['status'] | undefined
}

/** One call after the other: the savepoints of two at once would interleave. */
function openMeter({
  ledger,
  provider,
  endpoint,
  projectId,
  runId,
  userId,
  metadata,
  onLedgerError,
}: MeterOptions) {
  if (provider !== undefined) checkProvider('provider', provider)
  let waiting: RecordUsageOptions[] = []
  let last: Promise<void> = Promise.resolve()

  const send = async (calls: readonly RecordUsageOptions[]): Promise<void> => {
    await mapErrors(() => onLedger(ledger, (tenant) => recordUsages(tenant, calls)))
    waiting = waiting.filter((call) => !calls.includes(call))
  }
  const write = async (): Promise<void> => {
    const calls = waiting
    if (calls.length === 0) return
    try {
      await send(calls)
    } catch (error) {
      if (!(error instanceof ValidationError)) throw error
      // One that is never taken is given up: it would keep all the others from being recorded.
      for (const call of calls) {
        await send([call]).catch((reason) => {
          if (!(reason instanceof ValidationError)) throw reason
          waiting = waiting.filter((one) => one !== call)
        })
      }
      throw error
    }
  }
  const flush = (): Promise<void> => {
    const writing = last.then(write)
    last = writing.catch(() => {})
    return writing
  }
  const record = async (
    model: { provider: string; modelId: string },
    { status, ...call }: Call,
  ): Promise<void> => {
    waiting.push({
      ...{ endpoint, projectId, runId, userId, metadata, ...call },
      ...(status && { status }),
      provider: provider ?? pricedProvider(model.provider),
      model: model.modelId,
      idempotencyKey: `ai-sdk ${uuidV7()}`,
    })
    waiting = waiting.slice(-MAX_WAITING)
    await flush().catch((error) => onLedgerError?.(error, waiting.length))
  }
  return { record, flush }
}

function onLedger<T>(ledger: Ledger, work: (tenant: Tenant) => Promise<T>): Promise<T> {
  if ('tenant' in ledger) {
    const { tenant } = ledger
    // A savepoint: what the ledger refuses would abort the transaction of what the vectors are for.
    return tenant.db.transaction((db) => work({ ...tenant, db }))
  }
  return 'scope' in ledger
    ? inTenant(ledger.db, ledger.scope, work)
    : asService(ledger.db, ledger.organizationId, work)
}

/** As much of a generation's usage as is recorded. */
interface GenerationUsage {
  inputTokens: {
    total: number | undefined
    cacheRead: number | undefined
    cacheWrite: number | undefined
  }
  outputTokens: { total: number | undefined; reasoning: number | undefined }
}

/** What a generation was given and has made, where it is text; images and other files are not counted. */
interface GenerationTexts {
  input: () => readonly string[]
  output: () => readonly string[]
}

function countsOf(
  { inputTokens, outputTokens }: GenerationUsage,
  { input, output }: GenerationTexts,
  countTokens: CountTokens,
) {
  const [cacheReadTokens, cacheWriteTokens, reasoningTokens] = [
    countOf(inputTokens.cacheRead) ?? 0,
    countOf(inputTokens.cacheWrite) ?? 0,
    countOf(outputTokens.reasoning) ?? 0,
  ]
  const [inputTotal, outputTotal] = [countOf(inputTokens.total), countOf(outputTokens.total)]
  // A provider that says nothing has not given it away. Of what it says in part, the whole is no less.
  const estimate = (texts: () => readonly string[], part: number) =>
    Math.max(
      part,
      texts().reduce((sum, text) => sum + countTokens(text), 0),
    )
  return {
    inputTokens: inputTotal ?? estimate(input, cacheReadTokens + cacheWriteTokens),
    outputTokens: outputTotal ?? estimate(output, reasoningTokens),
    ...{ cacheReadTokens, cacheWriteTokens, reasoningTokens },
    ...((inputTotal === undefined || outputTotal === undefined) && {
      status: 'estimated' as const,
    }),
  }
}

/** The texts of a message's content: what is said, thought, and given to tools or by them. */
const textsOf = (content: string | readonly object[]): string[] =>
  typeof content === 'string' ? [content] : content.flatMap(textsOfPart)

function textsOfPart(part: object): string[] {
  if ('text' in part) return [asText(part.text)]
  if ('input' in part) return [asText(part.input)]
  const output = 'output' in part ? part.output : undefined
  if (typeof output !== 'object' || output === null || !('value' in output)) return []
  const { value } = output
  // Of several parts, files may be among them.
  const isContent = 'type' in output && output.type === 'content' && Array.isArray(value)
  return isContent ? value.flatMap(textsOfPart) : [asText(value)]
}

const asText = (value: unknown): string =>
  typeof value === 'string' ? value : (JSON.stringify(value) ?? '')

/**
 * Middleware for `wrapLanguageModel` that puts each generation on record: input, output, cached and
 * reasoning tokens, latency, cost. Of a stream when it ends; one that is given up before says no usage.
 * Input and output that the provider does not count are estimated from their texts, by `countTokens`.
 *
 * As with `meteredModel`, a ledger that fails costs no answer.
 */
export function usageMiddleware(options: MeterOptions): LanguageModelMiddleware & Meter {
  const { record, flush } = openMeter(options)
  const { operation = 'chat' } = options
  const countTokens = counterOf(options)
  const said = (prompt: readonly { content: string | readonly object[] }[]) =>
    prompt.flatMap(({ content }) => textsOf(content))
  return {
    specificationVersion: 'v3',
    flush,
    wrapGenerate: async ({ doGenerate, model, params }) => {
      const started = performance.now()
      const result = await doGenerate()
      const latencyMs = Math.round(performance.now() - started)
      const texts = { input: () => said(params.prompt), output: () => textsOf(result.content) }
      await record(model, { operation, latencyMs, ...countsOf(result.usage, texts, countTokens) })
      return result
    },
    wrapStream: async ({ doStream, model, params }) => {
      const started = performance.now()
      const { stream, ...rest } = await doStream()
      let usage: GenerationUsage | undefined
      let text = ''
      const calls: object[] = []
      const metered = new TransformStream<StreamPart, StreamPart>({
        transform: (part, controller) => {
          if (part.type === 'finish') usage = part.usage
          else if (part.type === 'text-delta' || part.type === 'reasoning-delta') text += part.delta
          else if (part.type === 'tool-call') calls.push(part)
          controller.enqueue(part)
        },
        flush: async () => {
          const latencyMs = Math.round(performance.now() - started)
          if (!usage) return
          const texts = {
            input: () => said(params.prompt),
            output: () => [text, ...textsOf(calls)],
          }
          await record(model, { operation, latencyMs, ...countsOf(usage, texts, countTokens) })
        },
      })
      return { stream: stream.pipeThrough(metered), ...rest }
    },
  }
}

type WrapStream = NonNullable<LanguageModelMiddleware['wrapStream']>
type StreamPart =
  Awaited<ReturnType<WrapStream>>['stream'] extends ReadableStream<infer Part> ? Part : never
