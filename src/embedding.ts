import { ValidationError } from './errors.ts'
import { checkInteger } from './validation.ts'

/** What plinth calls of an embedding model: the AI SDK's own interface, so that any of its models fits. */
export interface EmbeddingModel {
  readonly specificationVersion: string
  readonly provider: string
  readonly modelId: string
  /** How many texts a call takes; undefined: 100 at a time. */
  readonly maxEmbeddingsPerCall: number | undefined | PromiseLike<number | undefined>
  doEmbed(options: { values: string[]; abortSignal?: AbortSignal }): PromiseLike<{
    embeddings: number[][]
    usage?: { tokens: number }
  }>
}

/** The provider as prices have it: `openai` of the `openai.embedding` that the AI SDK says, and without a slash. */
export const pricedProvider = (provider: string): string =>
  (provider.split('.')[0] || provider).replaceAll('/', '_')

export interface Embedded {
  /** In the order of the texts. */
  embeddings: number[][]
  /** As the provider counts them; undefined if it does not. */
  tokens: number | undefined
  /** How often the model was called. */
  calls: number
}

const DEFAULT_BATCH = 100

/**
 * Embeds texts, in as many calls as the model's batch size asks for, one after the other.
 *
 * @throws {ValidationError} if the model answers with another number of vectors; what the model throws, and
 * the signal's reason.
 */
export async function embedTexts(
  model: EmbeddingModel,
  texts: readonly string[],
  signal?: AbortSignal,
): Promise<Embedded> {
  const size = (await model.maxEmbeddingsPerCall) ?? DEFAULT_BATCH
  if (!(size >= 1)) throw new ValidationError('model.maxEmbeddingsPerCall', 'must be 1 or more')
  const embeddings: number[][] = []
  let tokens: number | undefined = 0
  let calls = 0
  for (let at = 0; at < texts.length; at += size) {
    signal?.throwIfAborted()
    const values = texts.slice(at, at + size)
    const answer = await model.doEmbed({ values, abortSignal: signal })
    if (answer.embeddings.length !== values.length) {
      throw new ValidationError(
        'model',
        `${model.modelId} answered ${values.length} texts with ${answer.embeddings.length} vectors`,
      )
    }
    embeddings.push(...answer.embeddings)
    tokens = answer.usage && tokens !== undefined ? tokens + answer.usage.tokens : undefined
    calls += 1
  }
  return { embeddings, tokens, calls }
}

/** A model that the AI SDK takes as one of its own, too. */
export interface HashingModel extends EmbeddingModel {
  readonly specificationVersion: 'v3'
  readonly maxEmbeddingsPerCall: number
  readonly supportsParallelCalls: true
  doEmbed(options: { values: string[] }): Promise<{ embeddings: number[][]; warnings: [] }>
}

export interface HashingModelOptions {
  /** 384 unless said. */
  dimensions?: number
}

/** Words so common that they say nothing of a text. */
const STOP_WORDS = new Set(
  'a an and are as at be but by can do does for from has have how i if in into is it its may more no not of on one or other so such than that the their them then there these they this to was what when where which who will with you your'.split(
    ' ',
  ),
)

/** What a feature weighs beside a whole word. */
const PAIR_WEIGHT = 0.5
const GRAM_WEIGHT = 0.25

/**
 * An embedding model that needs no network: feature hashing (Weinberger et al. 2009) of words, pairs of
 * words and the character trigrams within words. Free, deterministic, and lexical: it finds texts that
 * share words and word stems, and knows nothing of meaning.
 *
 * @throws {ValidationError} for dimensions out of 16 to 4,000.
 */
export function hashingModel({ dimensions = 384 }: HashingModelOptions = {}): HashingModel {
  checkInteger('dimensions', dimensions, { min: 16, max: 4_000 })
  return {
    specificationVersion: 'v3',
    provider: 'plinth',
    modelId: `hashing-${dimensions}`,
    maxEmbeddingsPerCall: 1_000,
    supportsParallelCalls: true,
    doEmbed: async ({ values }) => ({
      embeddings: values.map((text) => hashText(text, dimensions)),
      warnings: [],
    }),
  }
}

function hashText(text: string, dimensions: number): number[] {
  const weights = new Map<string, number>()
  const add = (feature: string, weight: number) =>
    weights.set(feature, (weights.get(feature) ?? 0) + weight)

  const words = (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter(
    (word) => !STOP_WORDS.has(word),
  )
  for (const [at, word] of words.entries()) {
    add(word, 1)
    if (at > 0) add(`${words[at - 1]} ${word}`, PAIR_WEIGHT)
    const bounded = `<${word}>`
    for (let start = 0; start + 3 <= bounded.length; start += 1) {
      add(`#${bounded.slice(start, start + 3)}`, GRAM_WEIGHT)
    }
  }
  const vector = new Array<number>(dimensions).fill(0)
  for (const [feature, weight] of weights) {
    const hash = fnv1a(feature)
    const at = hash % dimensions
    // The sign makes collisions cancel out on average; the logarithm keeps a repeated word in bounds.
    vector[at] = (vector[at] ?? 0) + (hash & 0x4000_0000 ? 1 : -1) * Math.log1p(weight)
  }
  const length = Math.hypot(...vector)
  // A text without a word: a direction of its own, since a zero vector is near to nothing.
  if (length === 0) vector[0] = 1
  return length === 0 ? vector : vector.map((value) => value / length)
}

/** FNV-1a, 32 bits (Fowler, Noll and Vo), of UTF-16 code units. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  }
  return hash >>> 0
}

/** As pgvector reads it. Half precision holds four digits: more would only be bytes on the way. */
export const vectorText = (vector: readonly number[]): string =>
  `[${vector.map((value) => Number(value.toPrecision(6))).join(',')}]`
