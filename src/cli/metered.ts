import type { EmbeddingModel } from '../embedding.ts'
import { type RecordUsageOptions, recordUsages } from '../queries/costs.ts'
import type { Tenant } from '../tenant.ts'

/** A model that remembers its calls until they are on record. */
export interface MeteredModel extends EmbeddingModel {
  /**
   * Records the calls that are not on record yet, in the transaction of what they were made for. If that
   * is undone, the next one records them: each has a key of its own, so that none is billed twice.
   */
  record(tenant: Tenant, endpoint: string): Promise<void>
  /** Forgets what was recorded, once the transaction is committed. */
  settle(): void
}

/** Meters a model. `countTokens` stands in where a provider does not say how many a call had. */
export function metered(
  model: EmbeddingModel,
  countTokens: (text: string) => number,
): MeteredModel {
  let calls: RecordUsageOptions[] = []
  let recorded = 0
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
        idempotencyKey: `demo ${crypto.randomUUID()}`,
      })
      return answer
    },
    record: async (tenant, endpoint) => {
      recorded = calls.length
      await recordUsages(
        tenant,
        calls.map((call) => ({ ...call, endpoint })),
      )
    },
    settle: () => {
      calls = calls.slice(recorded)
      recorded = 0
    },
  }
}
