import { type ContextLogEntry, recordContext } from '../queries/ai.ts'
import type { Tenant } from '../tenant.ts'

/** The log of an empty context. */
export const makeContextLog = (tenant: Tenant, entry: Partial<ContextLogEntry> = {}) =>
  recordContext(tenant, { items: [], budgetTokens: 1_000, totalTokens: 0, ...entry })
