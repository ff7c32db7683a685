import { PGVectorStore } from '@llamaindex/postgres'

/**
 * LlamaIndex's PGVectorStore, which has no vector index of its own. By its filter on metadata, and by a
 * collection for each organization, which its column index serves. Its setup is run once: by default four
 * statements of it would go before each query.
 */
export async function open({ url, dimensions }) {
  const config = {
    clientConfig: { connectionString: url },
    tableName: 'llamaindex',
    dimensions,
    // Vectors are given; it asks for a model all the same.
    embeddingModel: {},
  }
  const setup = new PGVectorStore(config)
  await (await setup.client()).close()
  const store = new PGVectorStore({ ...config, performSetup: false })
  const search = async (collection, filters, queryEmbedding, similarityTopK) => {
    store.setCollection(collection)
    const { nodes } = await store.query({
      queryEmbedding,
      similarityTopK,
      mode: 'default',
      filters,
    })
    return nodes.map(({ id_, text, metadata }) => ({ id: id_, text, metadata }))
  }
  return {
    table: 'public.llamaindex',
    fill: `
      insert into public.llamaindex (id, external_id, collection, document, metadata, embeddings)
      select id, '', organization_id::text, content,
        jsonb_build_object('organization', organization_id, 'position', position, 'create_date', now()), embedding
      from bench.items`,
    buildIndex: undefined,
    searches: {
      'LlamaIndex PGVectorStore, filter': (organization, vector, k) =>
        search(
          '',
          { filters: [{ key: 'organization', value: organization, operator: '==' }] },
          vector,
          k,
        ),
      'LlamaIndex PGVectorStore, collection': (organization, vector, k) =>
        search(organization, undefined, vector, k),
    },
    close: async () => (await store.client()).close(),
  }
}
