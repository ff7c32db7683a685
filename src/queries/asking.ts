import type { Database } from '../database.ts'
import { type EmbeddingModel, embedTexts } from '../embedding.ts'
import { NotFoundError, ValidationError } from '../errors.ts'
import type { Space } from '../schema/search.ts'
import { checkList, checkText, checkVector } from '../validation.ts'
import { findActiveSpace } from './spaces.ts'

export interface EmbedQueryOptions {
  query: string
  /** The models of the spaces that may be active: two while one takes the other's place. */
  models: readonly EmbeddingModel[]
  /** Of the space; `text` unless said. */
  purpose?: string
  signal?: AbortSignal
}

/** What `search` and `assembleContext` take. */
export interface EmbeddedQuery {
  query: string
  embedding: number[]
  space: Space
  /** What the model was given, as its provider counts it; undefined if it does not. */
  tokens: number | undefined
}

/**
 * Embeds a query by the model of the space that is active now, so that a query is never compared with
 * vectors of another model, and another space may be activated while this code runs. Outside of a scope: no
 * transaction waits for the model.
 *
 * @throws {NotFoundError} while no space of the purpose is active. @throws {ValidationError} if none of the
 * models is the space's, or its vector does not fit. @throws what the model throws.
 */
export async function embedQuery(
  db: Database,
  { query, models, purpose = 'text', signal }: EmbedQueryOptions,
): Promise<EmbeddedQuery> {
  checkText('query', query, { max: 10_000 })
  checkList('models', models, { min: 1, max: 20 })
  const space = await findActiveSpace(db, purpose)
  if (!space) throw new NotFoundError('active space', purpose)
  const model = models.find(
    ({ provider, modelId }) => provider === space.provider && modelId === space.model,
  )
  if (!model) {
    const given = models.map(({ provider, modelId }) => `${provider}/${modelId}`).join(', ')
    throw new ValidationError(
      'models',
      `has no ${space.provider}/${space.model}, which the active space is for, but ${given}`,
    )
  }
  const { embeddings, tokens } = await embedTexts(model, [query], signal)
  const embedding = embeddings[0] ?? []
  checkVector('embedding', embedding, space.dimensions)
  return { query, embedding, space, tokens }
}
