import { resolve } from 'node:path'
import { loadConfig } from 'c12'
import { getEncoding } from 'js-tiktoken'
import { type EmbeddingModel, embedTexts, hashingModel } from '../embedding.ts'
import { type MeteredModel, metered } from './metered.ts'
import { UsageError } from './terminal.ts'

export interface Embedder {
  model: MeteredModel
  dimensions: number
  /** By the tokenizer of OpenAI's embedding models, cl100k_base, whatever the model is. */
  countTokens: (text: string) => number
  /** Whether it is the one that comes with plinth, and so lexical and free. */
  isOffline: boolean
}

/** What a plinth.config file exports. */
interface Config {
  embedding?: EmbeddingModel
}

/**
 * The embedding model of plinth.config.{ts,js,mjs,json} in the working directory, or of the file given;
 * the offline one without. Its dimensions are those of what it answers.
 */
export async function loadEmbedder(configFile: string | undefined): Promise<Embedder> {
  const { config, configFile: found } = await loadConfig<Config>({
    name: 'plinth',
    ...(configFile && { configFile: resolve(configFile), configFileRequired: true }),
    rcFile: false,
    dotenv: false,
  }).catch((error) => {
    throw new UsageError(`the config file could not be read: ${error.message}`)
  })
  const { embedding } = config
  if (!embedding && configFile) throw new UsageError(`${found} exports no \`embedding\``)
  if (embedding && typeof embedding.doEmbed !== 'function') {
    throw new UsageError(
      `\`embedding\` in ${found} is no AI SDK embedding model: it has no doEmbed`,
    )
  }
  const encoding = getEncoding('cl100k_base')
  const countTokens = (text: string) => encoding.encode(text, 'all').length
  const model = metered(embedding ?? hashingModel(), countTokens)
  // A call like any other, and so on record with the first file.
  const { embeddings } = await embedTexts(model, ['dimensions'])
  return { model, dimensions: embeddings[0]?.length ?? 0, countTokens, isOffline: !embedding }
}
