import { Document, type DocumentInterface } from '@langchain/core/documents'
import type { EmbeddingsInterface } from '@langchain/core/embeddings'
import { maximalMarginalRelevance } from '@langchain/core/utils/math'
import { type MaxMarginalRelevanceSearchOptions, VectorStore } from '@langchain/core/vectorstores'
import { and, eq, sql } from 'drizzle-orm'
import { type Database, rowsOf, run } from '../database.ts'
import type { EmbeddingModel } from '../embedding.ts'
import { ValidationError } from '../errors.ts'
import type { MetadataFilter } from '../metadata.ts'
import { type SearchMatch, search } from '../queries/search.ts'
import { indexSource, removeSource } from '../queries/sources.ts'
import { uuidV7 } from '../schema/columns.ts'
import {
  chunks,
  type Space,
  type Visibility,
  embeddings as vectorsTable,
} from '../schema/search.ts'
import { inTenant, type Scope, type Tenant } from '../tenant.ts'
import { checkInteger, checkList, checkText } from '../validation.ts'

export interface PlinthVectorStoreOptions {
  db: Database
  /** In whose name every call reads and writes. */
  scope: Scope
  /** Of the vectors that the Embeddings make. */
  space: Space
  /** Which sources the documents are, and the only ones that are searched; `document` unless said. */
  sourceType?: string
  /** Of the documents that are added; unless said, of those that are there already what it is, else `shared`. */
  visibility?: Visibility
}

export interface AddOptions {
  /** Of the documents, in their order; else the document's own id, its metadata's `sourceId`, or a new one. */
  ids?: string[]
}

/** Of one call; each document takes a few statements. */
const MAX_DOCUMENTS = 1_000

/** Of a document, in characters: what a chunk may have. */
const MAX_CONTENT = 20_000

/**
 * LangChain's VectorStore on plinth's search. Each document is a source with one chunk, and its id the
 * source's: adding another one under it replaces it, but for whose it is and who sees it. A document without text is not kept.
 *
 * Each call enters the scope, and so sees and writes what its member may. Scores are similarities: more is
 * nearer. Filters are conditions on metadata. Long documents are to be split before, as with every
 * VectorStore.
 */
export class PlinthVectorStore extends VectorStore {
  declare FilterType: MetadataFilter
  readonly #db: Database
  readonly #scope: Scope
  readonly #space: Space
  readonly #sourceType: string
  readonly #visibility: Visibility | undefined

  constructor(
    embeddings: EmbeddingsInterface,
    { db, scope, space, sourceType = 'document', visibility }: PlinthVectorStoreOptions,
  ) {
    // Not the database and the scope: LangChain writes what it is given here into traces.
    super(embeddings, { sourceType })
    checkText('sourceType', sourceType, { max: 40 })
    this.#db = db
    this.#scope = scope
    this.#space = space
    this.#sourceType = sourceType
    this.#visibility = visibility
  }

  /** `plinth`. */
  override _vectorstoreType(): string {
    return 'plinth'
  }

  /** Embeds documents and adds them. Returns their ids. @throws as `addVectors`. */
  override async addDocuments(
    documents: DocumentInterface[],
    options?: AddOptions,
  ): Promise<string[]> {
    const vectors = await this.embeddings.embedDocuments(documents.map((one) => one.pageContent))
    return this.addVectors(vectors, documents, options)
  }

  /**
   * Adds documents with their vectors, all or none: up to 1,000. Returns their ids, in their order.
   *
   * @throws {ValidationError} also for vectors that are not the space's.
   * @throws {ForbiddenError} for a scope that may not write them.
   */
  override async addVectors(
    vectors: number[][],
    documents: DocumentInterface[],
    { ids }: AddOptions = {},
  ): Promise<string[]> {
    checkList('documents', documents, { max: MAX_DOCUMENTS })
    for (const [name, list] of Object.entries({ vectors, ids })) {
      if (list && list.length !== documents.length) {
        throw new ValidationError(
          name,
          `has ${list.length} items for ${documents.length} documents`,
        )
      }
    }
    for (const [at, { pageContent }] of documents.entries()) {
      checkText(`documents[${at}].pageContent`, pageContent, { min: 0, max: MAX_CONTENT })
    }
    const sources = documents.map((document, at) => {
      const { sourceId } = document.metadata
      const own = typeof sourceId === 'string' ? sourceId : undefined
      return {
        document,
        vector: vectors[at] ?? [],
        id: ids?.[at] ?? document.id ?? own ?? uuidV7(),
      }
    })
    await this.#within(async (tenant) => {
      // In one order for all who add the same ones: each is locked.
      const ordered = sources.toSorted((a, b) => (a.id < b.id ? -1 : 1))
      for (const source of ordered) await this.#add(tenant, source)
    })
    return sources.map(({ id }) => id)
  }

  async #add(
    tenant: Tenant,
    { document, vector, id }: { document: DocumentInterface; vector: number[]; id: string },
  ) {
    const { provider, model: modelId } = this.#space
    const model: EmbeddingModel = {
      ...{ specificationVersion: 'v3', provider, modelId, maxEmbeddingsPerCall: 1 },
      doEmbed: async () => ({ embeddings: [vector] }),
    }
    const source = { sourceType: this.#sourceType, sourceId: id }
    // Another vector for the same text counts too: what is there is not kept for its text alone.
    const known = await this.#attributesOf(tenant, id)
    await removeSource(tenant, source)
    await indexSource(tenant, {
      ...known,
      ...source,
      text: document.pageContent,
      ...{ metadata: document.metadata, model, space: this.#space },
      ...(this.#visibility && { visibility: this.#visibility }),
      chunkSize: Math.max(document.pageContent.length, 50),
      chunkOverlap: 0,
    })
  }

  /** Whose a document is that is there already, and who sees it: not to be lost with what it says. */
  async #attributesOf({ db, organizationId }: Tenant, sourceId: string) {
    const { ownerId, visibility, projectId, categoryId, language, occurredAt } = chunks
    const [known] = await run(
      db
        .select({ ownerId, visibility, projectId, categoryId, language, occurredAt })
        .from(chunks)
        .where(
          and(
            eq(chunks.organizationId, organizationId),
            eq(chunks.sourceType, this.#sourceType),
            eq(chunks.sourceId, sourceId),
          ),
        )
        .orderBy(chunks.position)
        .limit(1),
    )
    return known
  }

  /** Deletes documents by their ids; those that are not there as well. @throws {ValidationError} */
  override async delete(params: { ids: string[] }): Promise<void> {
    checkList('ids', params?.ids, { max: MAX_DOCUMENTS })
    await this.#within(async (tenant) => {
      for (const sourceId of params.ids) {
        await removeSource(tenant, { sourceType: this.#sourceType, sourceId })
      }
    })
  }

  /**
   * The documents nearest to a vector, nearest first, with their similarity: up to 200.
   *
   * @throws {ValidationError}
   */
  override async similaritySearchVectorWithScore(
    query: number[],
    k: number,
    filter?: MetadataFilter,
  ): Promise<[Document, number][]> {
    const matches = await this.#within((tenant) => this.#search(tenant, query, k, filter))
    return matches.map((match) => [documentOf(match), match.similarity ?? 0])
  }

  #search(tenant: Tenant, embedding: number[], limit: number, filter: MetadataFilter | undefined) {
    const hasFilter = filter !== undefined && Object.keys(filter).length > 0
    return search(tenant, {
      ...{ embedding, limit, space: this.#space, mode: 'vector', sourceTypes: [this.#sourceType] },
      ...(hasFilter && { metadata: filter }),
    }).then(({ matches }) => matches)
  }

  /**
   * Documents that are near to the query and unlike one another, by maximal marginal relevance (Carbonell
   * and Goldstein 1998): `k` of the `fetchK` (20) nearest, with `lambda` (0.5) for nearness alone at 1.
   *
   * @throws {ValidationError}
   */
  override async maxMarginalRelevanceSearch(
    query: string,
    { k, fetchK = 20, lambda = 0.5, filter }: MaxMarginalRelevanceSearchOptions<MetadataFilter>,
  ): Promise<Document[]> {
    checkInteger('fetchK', fetchK, { min: 1, max: 200 })
    const embedding = await this.embeddings.embedQuery(query)
    return this.#within(async (tenant) => {
      const found = await this.#search(tenant, embedding, Math.max(fetchK, k), filter)
      const vectors = await this.#vectorsOf(tenant, found)
      const list = found.map(({ chunkId }) => vectors.get(chunkId) ?? [])
      const chosen = list.length > 0 ? maximalMarginalRelevance(embedding, list, lambda, k) : []
      return chosen.flatMap((at) => found[at] ?? []).map(documentOf)
    })
  }

  async #vectorsOf({ db, organizationId }: Tenant, found: readonly SearchMatch[]) {
    const ids = JSON.stringify(found.map(({ chunkId }) => chunkId))
    const rows = await rowsOf<{ id: string; vector: string }>(
      db,
      sql`select chunk_id as id, embedding::text as vector from ${vectorsTable}
          where organization_id = ${organizationId} and space_id = ${this.#space.id}
            and chunk_id = any(array(select json_array_elements_text(${ids}::text::json)::uuid))`,
    )
    return new Map(rows.map(({ id, vector }): [string, number[]] => [id, JSON.parse(vector)]))
  }

  #within<T>(work: (tenant: Tenant) => Promise<T>): Promise<T> {
    return inTenant(this.#db, this.#scope, work)
  }

  /** A store with texts and their metadata, one each or one for all. @throws as `addVectors`. */
  static override async fromTexts(
    texts: string[],
    metadatas: object[] | object,
    embeddings: EmbeddingsInterface,
    options: PlinthVectorStoreOptions,
  ): Promise<PlinthVectorStore> {
    const documents = texts.map((pageContent, at) => {
      const metadata = Array.isArray(metadatas) ? metadatas[at] : metadatas
      return new Document({ pageContent, metadata: { ...metadata } })
    })
    return PlinthVectorStore.fromDocuments(documents, embeddings, options)
  }

  /** A store with documents. @throws as `addVectors`. */
  static override async fromDocuments(
    documents: DocumentInterface[],
    embeddings: EmbeddingsInterface,
    options: PlinthVectorStoreOptions,
  ): Promise<PlinthVectorStore> {
    const store = new PlinthVectorStore(embeddings, options)
    await store.addDocuments(documents)
    return store
  }
}

const documentOf = ({ content, metadata, sourceId }: SearchMatch) =>
  new Document({ pageContent: content, metadata, id: sourceId })
