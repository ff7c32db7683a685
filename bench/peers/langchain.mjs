import { PGVectorStore } from '@langchain/community/vectorstores/pgvector'
import pg from 'pg'

const columns = {
  idColumnName: 'id',
  vectorColumnName: 'vector',
  contentColumnName: 'content',
  metadataColumnName: 'metadata',
}

/**
 * LangChain's PGVectorStore: its table and its filter on metadata. With the HNSW index that it builds when it is
 * told to, and, as it is when it is not, without: on a connection that may not use an index.
 */
export async function open({ url, dimensions }) {
  const embeddings = { embedDocuments: async () => [], embedQuery: async () => [] }
  const [store, bare] = await Promise.all(
    [{}, { options: '-c enable_indexscan=off', skip: true }].map(({ options, skip = false }) =>
      PGVectorStore.initialize(embeddings, {
        pool: new pg.Pool({ connectionString: url, options }),
        tableName: 'langchain',
        distanceStrategy: 'cosine',
        dimensions,
        columns,
        skipInitializationCheck: skip,
      }),
    ),
  )
  const search = (from) => async (organization, vector, k) => {
    const found = await from.similaritySearchVectorWithScore(vector, k, { organization })
    return found.map(([{ id, pageContent, metadata }]) => ({ id, text: pageContent, metadata }))
  }
  return {
    table: 'public.langchain',
    fill: `
      insert into public.langchain (id, content, metadata, vector)
      select id, content, jsonb_build_object('organization', organization_id, 'position', position), embedding
      from bench.items`,
    buildIndex: () => store.createHnswIndex({ dimensions }),
    searches: {
      'LangChain PGVectorStore, its HNSW index': search(store),
      'LangChain PGVectorStore, no index': search(bare),
    },
    close: () => Promise.all([store.end(), bare.end()]),
  }
}
