import type { EmbeddingModel } from '../embedding.ts'
import { type RecordUsageOptions, recordUsages } from '../queries/costs.ts'
import type { Tenant } from '../tenant.ts'

/** A model that remembers its calls, until they are recorded. */
export interface MeteredModel extends EmbeddingModel {
  /** Records each call in the cost ledger, in the transaction of what it was made for. */
  record(tenant: Tenant, endpoint: string): Promise<void>
}

/** Meters a model. `countTokens` stands in where a provider does not say how many a call had. */
export function metered(
  model: EmbeddingModel,
  countTokens: (text: string) => number,
): MeteredModel {
  let calls: RecordUsageOptions[] = []
  return {
    specificationVersion: model.specificationVersion,
    provider: model.provider,
    modelId: model.modelId,
    maxEmbeddingsPerCall: model.maxEmbeddingsPerCall,
    doEmbed: async (options) => {
      const started = performance.now()
      const answer = await model.doEmbed(options)
      const counted = options.values.reduce((sum, text) => sum + countTokens(text), 0)
      calls.push({
        provider: model.provider,
        model: model.modelId,
        operation: 'embedding',
        embeddingTokens: answer.usage?.tokens ?? counted,
        latencyMs: Math.round(performance.now() - started),
      })
      return answer
    },
    record: async (tenant, endpoint) => {
      const made = calls.map((call) => ({ ...call, endpoint }))
      calls = []
      if (made.length > 0) await recordUsages(tenant, made)
    },
  }
}
