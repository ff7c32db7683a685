import { PGVectorStore } from '@langchain/community/vectorstores/pgvector'
import pg from 'pg'

/** LangChain's PGVectorStore: its table, its HNSW index, its filter on metadata. */
export async function open({ url, dimensions }) {
  const pool = new pg.Pool({ connectionString: url })
  const store = await PGVectorStore.initialize(
    { embedDocuments: async () => [], embedQuery: async () => [] },
    {
      pool,
      tableName: 'langchain',
      distanceStrategy: 'cosine',
      dimensions,
      columns: {
        idColumnName: 'id',
        vectorColumnName: 'vector',
        contentColumnName: 'content',
        metadataColumnName: 'metadata',
      },
    },
  )
  return {
    table: 'public.langchain',
    fill: `
      insert into public.langchain (id, content, metadata, vector)
      select id, content, jsonb_build_object('organization', organization_id, 'position', position), embedding
      from bench.items`,
    buildIndex: () => store.createHnswIndex({ dimensions }),
    searches: {
      'LangChain PGVectorStore': async (organization, vector, k) => {
        const found = await store.similaritySearchVectorWithScore(vector, k, { organization })
        return found.map(([{ id, pageContent, metadata }]) => ({ id, text: pageContent, metadata }))
      },
    },
    close: () => store.end(),
  }
}
