import { PgVector } from '@mastra/pg'

/**
 * Mastra's PgVector with the index that it makes unless told otherwise, built over the rows. The text is in
 * the metadata, where its examples have it.
 */
export async function open({ url, dimensions }) {
  const store = new PgVector({ connectionString: url })
  const indexName = 'mastra'
  await store.createIndex({ indexName, dimension: dimensions, buildIndex: false })
  return {
    table: 'public.mastra',
    fill: `
      insert into public.mastra (vector_id, embedding, metadata)
      select id::text, embedding,
        jsonb_build_object('organization', organization_id, 'position', position, 'text', content)
      from bench.items`,
    buildIndex: () => store.buildIndex({ indexName, metric: 'cosine', indexConfig: {} }),
    searches: {
      'Mastra PgVector': async (organization, queryVector, topK) => {
        const found = await store.query({ indexName, queryVector, topK, filter: { organization } })
        return found.map(({ id, metadata }) => ({ id, text: metadata.text, metadata }))
      },
    },
    close: () => store.disconnect(),
  }
}
