import { resolve } from 'node:path'
import { loadConfig } from 'c12'
import { type EmbeddingModel, embedTexts, hashingModel } from '../embedding.ts'
import { UsageError } from './terminal.ts'

export interface Embedder {
  model: EmbeddingModel
  dimensions: number
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
  if (!embedding) {
    if (configFile) throw new UsageError(`${found} exports no \`embedding\``)
    const model = hashingModel()
    return { model, dimensions: await dimensionsOf(model), isOffline: true }
  }
  if (typeof embedding.doEmbed !== 'function') {
    throw new UsageError(
      `\`embedding\` in ${found} is no AI SDK embedding model: it has no doEmbed`,
    )
  }
  return { model: embedding, dimensions: await dimensionsOf(embedding), isOffline: false }
}

async function dimensionsOf(model: EmbeddingModel): Promise<number> {
  const { embeddings } = await embedTexts(model, ['dimensions'])
  return embeddings[0]?.length ?? 0
}
