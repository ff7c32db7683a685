export {
  type ActivityEntry,
  type ListActivityOptions,
  listActivity,
  recordActivities,
  recordActivity,
} from './activity.ts'
export * from './activity-buffer.ts'
export * from './ai.ts'
export * from './api-keys.ts'
export * from './asking.ts'
export * from './auth-logs.ts'
export * from './budget-alerts.ts'
export * from './budgets.ts'
export type { ExceededBudget } from './charging.ts'
export * from './chunks.ts'
export * from './comparison.ts'
export * from './context.ts'
export {
  type ListUsageOptions,
  listUsage,
  type RecordedUsage,
  type RecordUsageOptions,
  recordUsage,
  recordUsages,
  type Spend,
  type SpendBy,
  type SpendOptions,
  type SpendPeriod,
  type SpendRange,
  type SpendRow,
  spend,
  type TopCostsOptions,
  topCosts,
} from './costs.ts'
export {
  type ListDeliveriesOptions,
  listDeliveries,
  type PurgeDeliveriesOptions,
  purgeDeliveries,
  type RecordDeliveryOptions,
  type RecordedDelivery,
  recordDelivery,
} from './deliveries.ts'
export * from './delivery-queue.ts'
export * from './drift.ts'
export {
  type EmbedFunction,
  type ListEmbeddingJobsOptions,
  listEmbeddingJobs,
  type RunEmbeddingJobsOptions,
  type RunProgress,
  retryDeadJobs,
  runEmbeddingJobs,
} from './embedding-jobs.ts'
export * from './error-logs.ts'
export * from './filling.ts'
export type { SearchFilters } from './filters.ts'
export * from './forecast.ts'
export * from './idempotency.ts'
export * from './identity.ts'
export * from './invitations.ts'
export * from './locks.ts'
export {
  type AddMemberOptions,
  addMember,
  type ChangeMemberRoleOptions,
  changeMemberRole,
  type ListMembersOptions,
  listMembers,
  type Member,
  removeMember,
  type TransferOwnershipOptions,
  transferOwnership,
} from './members.ts'
export * from './metered.ts'
export {
  type CreateNamespaceOptions,
  createNamespace,
  getNamespace,
  type ListNamespacesOptions,
  listNamespaces,
  type NamespaceDrift,
  namespaceDrift,
  removeNamespace,
} from './namespaces.ts'
export * from './oauth-tokens.ts'
export * from './ops.ts'
export {
  type ClaimedPlacement,
  type ClaimPlacementsOptions,
  claimPlacements,
  type PlacementOutcome,
  type RefreshedPlacements,
  refreshPlacements,
  settlePlacements,
} from './placements.ts'
export {
  type ApplicablePrice,
  type CallEstimate,
  type ClosePriceOptions,
  type CostLine,
  type CreatePriceOptions,
  closePrice,
  createPrice,
  estimateCost,
  type ImportedPrices,
  type ImportPricesOptions,
  importPrices,
  type ListPricesOptions,
  listPrices,
  type PricedUsage,
  priceUsage,
  type UsageCounts,
} from './prices.ts'
export * from './rate-limits.ts'
export * from './repricing.ts'
export {
  type BlockingBudget,
  type ExtendReservationOptions,
  expireReservations,
  extendReservation,
  getReservation,
  type HeldReservation,
  type ListReservationsOptions,
  listReservations,
  type PurgeReservationsOptions,
  purgeReservations,
  type ReserveOptions,
  type ReserveOutcome,
  release,
  reserve,
  type SettledUsage,
  type SettleOptions,
  settle,
} from './reservations.ts'
export * from './seal-verification.ts'
export {
  type ActivityHead,
  disableActivitySeals,
  enableActivitySeals,
  type SealActivityOptions,
  type SealedActivity,
  sealActivity,
} from './seals.ts'
export {
  type SearchArm,
  type SearchExplanation,
  type SearchMatch,
  type SearchOptions,
  type SearchResult,
  type SnippetPart,
  search,
} from './search.ts'
export { type ListSearchesOptions, listSearches } from './searches.ts'
export * from './similar.ts'
export {
  type IndexedSource,
  type IndexSourceOptions,
  indexSource,
  removeSource,
  type Source,
} from './sources.ts'
export * from './spaces.ts'
