import type { EmbeddingModel } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import {
  type Language,
  language as languages,
  type Space,
  type Visibility,
  visibility as visibilities,
} from '../schema/search.ts'
import type { SplitOptions } from '../splitting.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkFunction,
  checkInstant,
  checkJson,
  checkOneOf,
  checkText,
  checkUuid,
} from '../validation.ts'

/** Of a source, in characters. */
export const MAX_TEXT = 5_000_000

/** What is indexed, and found again: a document, a message, a page. */
export interface Source {
  /** What kind of thing it is, in up to 40 characters, such as `document`. */
  sourceType: string
  /** Which one, in the caller's own terms. */
  sourceId: string
}

export interface IndexSourceOptions extends Source, SplitOptions {
  text: string
  /** With both of them, new chunks are embedded; without, they are found by their words only. */
  model?: EmbeddingModel
  space?: Space
  /** Null for nobody's. Of a new source the user in scope, unless said. */
  ownerId?: string | null
  /** Of a new source `shared`, unless said. A private one needs an owner. */
  visibility?: Visibility
  projectId?: string | null
  categoryId?: string | null
  /** The spaces of which purpose it is embedded in. Of a new source that of `space`, or else `text`. */
  purpose?: string
  /** By whose rules its words are stemmed. Of a new source `english`, unless said. */
  language?: Language
  metadata?: Record<string, unknown>
  /** When the source was written or said; of a new one now, unless said. */
  occurredAt?: Date
  /** Ends it between two batches, and undoes it. */
  signal?: AbortSignal
  /** Counts the tokens of a chunk; a quarter of its characters, rounded up, unless said. */
  countTokens?: (text: string) => number
}

/** Checks all that `indexSource` is given but the sizes, which are the splitter's. */
export function checkOptions({ model, space, ...options }: IndexSourceOptions) {
  if (options.countTokens !== undefined) checkFunction('countTokens', options.countTokens)
  checkSource(options)
  checkText('text', options.text, { min: 0, max: MAX_TEXT })
  if (options.ownerId != null) checkUuid('ownerId', options.ownerId)
  if (options.projectId != null) checkUuid('projectId', options.projectId)
  if (options.categoryId != null) checkUuid('categoryId', options.categoryId)
  if (options.visibility !== undefined) {
    checkOneOf('visibility', options.visibility, visibilities.enumValues)
  }
  if (options.purpose !== undefined) checkText('purpose', options.purpose, { max: 100 })
  if (options.language !== undefined) {
    checkOneOf('language', options.language, languages.enumValues)
  }
  if (options.metadata !== undefined) checkJson('metadata', options.metadata)
  if (options.occurredAt !== undefined) checkInstant('occurredAt', options.occurredAt)
  if (!model !== !space) {
    throw new ValidationError(model ? 'space' : 'model', 'must be given with the other one')
  }
  if (model && space && (model.provider !== space.provider || model.modelId !== space.model)) {
    throw new ValidationError(
      'model',
      `is ${model.provider}/${model.modelId}, and the space is for ${space.provider}/${space.model}`,
    )
  }
  if (space && options.purpose !== undefined && options.purpose !== space.purpose) {
    throw new ValidationError(
      'purpose',
      `is ${options.purpose}, and that of the space is ${space.purpose}`,
    )
  }
  return { model, space }
}

/** Checks which source is meant. */
export function checkSource({ sourceType, sourceId }: Source) {
  checkText('sourceType', sourceType, { max: 40 })
  checkText('sourceId', sourceId)
}

/** What all chunks of a source have in common. */
export interface Attributes {
  ownerId: string | null
  projectId: string | null
  categoryId: string | null
  visibility: Visibility
  purpose: string
  language: Language
  metadata: Record<string, unknown>
  /** Null: now. */
  occurredAt: string | null
}

/** What is given, else what the source has, else what a new one gets. */
export function attributesOf(
  { userId }: Tenant,
  options: IndexSourceOptions,
  known: Attributes = {
    ownerId: userId ?? null,
    projectId: null,
    categoryId: null,
    visibility: 'shared',
    purpose: 'text',
    language: 'english',
    metadata: {},
    occurredAt: null,
  },
): Attributes {
  const { ownerId, projectId, categoryId, visibility, metadata, occurredAt } = options
  const { space, purpose = space?.purpose, language } = options
  const attributes = {
    ownerId: ownerId === undefined ? known.ownerId : ownerId,
    projectId: projectId === undefined ? known.projectId : projectId,
    categoryId: categoryId === undefined ? known.categoryId : categoryId,
    visibility: visibility ?? known.visibility,
    purpose: purpose ?? known.purpose,
    language: language ?? known.language,
    metadata: metadata ?? known.metadata,
    occurredAt: occurredAt?.toISOString() ?? known.occurredAt,
  }
  if (attributes.visibility === 'private' && attributes.ownerId === null) {
    throw new ValidationError('ownerId', 'must be a user for a private source')
  }
  return attributes
}
