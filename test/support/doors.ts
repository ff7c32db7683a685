import { hashingModel } from '../../src/embedding.ts'
import { openKeyRing } from '../../src/key-ring.ts'
import { uuidV7 } from '../../src/schema/columns.ts'

type Where = 'scope' | 'database' | 'nowhere'
type Door = [where: Where, ...args: unknown[]]

const id = uuidV7()
const [since, until] = [new Date('2026-01-01'), new Date('2026-02-01')]
const [at, page] = [
  { occurredAt: since, id },
  { after: id, limit: 2 },
]
// Not plain objects, so that nobody's model or key ring has junk within.
const model = Object.create(hashingModel({ dimensions: 16 }))
const space = {
  ...{ id, provider: model.provider, model: model.modelId, dimensions: 16, distance: 'cosine' },
}
const source = { sourceType: 'note', sourceId: 'n' }
const filters = {
  ...{
    sourceTypes: ['note'],
    sourceIds: ['n'],
    projectId: id,
    categoryId: id,
    ownerId: id,
    since,
    until,
  },
  ...{ metadata: { colour: 'red', size: { gte: 1 } }, except: source },
}
const counts = {
  ...{
    inputTokens: 1,
    outputTokens: 1,
    cacheReadTokens: 0,
    cacheWriteTokens: 0,
    reasoningTokens: 0,
  },
  ...{ embeddingTokens: 0, images: 0, audioSeconds: 0, requests: 1 },
}
const call = {
  ...{
    provider: 'test',
    model: 'm',
    operation: 'chat',
    endpoint: '/',
    userId: null,
    projectId: id,
  },
  ...{ runId: id, metadata: { a: 1 }, latencyMs: 1, occurredAt: since, costNanos: 1n },
  ...{ status: 'estimated', estimateNanos: 1n, ...counts },
}
const estimate = { inputTokens: 1, embeddingTokens: 1, images: 1, audioSeconds: 1, requests: 1 }
const held = { provider: 'test', model: 'm', amountNanos: 1n, projectId: id, leaseMs: 1_000 }
const price = {
  ...{ id, unit: 'input', tierFrom: 0, nanosPerMillion: 1n, validFrom: since, validTo: null },
}
const lock = { name: 'l', token: 1n }
const bucket = { key: 'k', capacity: 5, refillPerSecond: 1, cost: 1 }
const owner = { userId: id, provider: 'test', account: 'a' }
const ring = Object.create(openKeyRing({ current: 'k', keys: { k: Buffer.alloc(32, 1) } }))
const head = { sequence: 1, hash: 'a'.repeat(64) }
const webhook = { provider: 'test', event: 'e', payload: { a: 1 }, headers: { a: 'b' } }
const jobs = {
  ...{ space: { id }, model, organizationIds: [id], concurrency: 1, maxTokens: 100, maxBatch: 2 },
  ...{ leaseMs: 1_000, maxAttempts: 1 },
}
const PRICES = [
  { prices: { input_mtok: { base: 1, tiers: [{ start: 100, price: 2 }] } } },
  { constraint: { type: 'start_date', start_date: '2026-02-01' }, prices: { input_mtok: 1 } },
]
const nothing = async () => {}

/** By name: where it is called, with arguments that it takes and behind which there is mostly nothing to be found. */
export const DOORS: Record<string, Door> = {
  recordActivity: [
    'scope',
    {
      ...{ action: 'a', actorId: null, resourceType: 't', resourceId: 'r', resourceName: 'n' },
      ...{ changes: { a: 1 }, metadata: { a: 1 }, ip: '10.0.0.1', userAgent: 'u', requestId: 'q' },
      ...{ occurredAt: new Date(), id },
    },
  ],
  recordActivities: ['scope', [{ action: 'a' }]],
  listActivity: [
    'scope',
    {
      actorId: id,
      resource: { type: 't', id: 'r' },
      action: 'a',
      since,
      until,
      after: at,
      limit: 1,
    },
  ],
  bufferActivity: [
    'database',
    { maxSize: 1, maxDelayMs: 100, maxPending: 10, closeTimeoutMs: 100, onError: () => {} },
  ],
  recordContext: [
    'scope',
    {
      items: [{ ...source, chunkIds: [id], positions: [0], citation: 1, tokens: 1, score: 1 }],
      ...{ budgetTokens: 1, totalTokens: 1, query: 'q', model: 'm' },
    },
  ],
  listContextLogs: ['scope', page],
  createApiKey: ['scope', { name: 'n', scopes: ['a'], lifetimeMs: 100_000, userId: null }],
  verifyApiKey: ['database', 'plinth_x', { requiredScopes: ['a'] }],
  revokeApiKey: ['scope', id],
  listApiKeys: ['scope', { userId: id, ...page }],
  embedQuery: ['database', { query: 'q', models: [model], purpose: 'text' }],
  hashEmail: ['nowhere', 'a@b.example', { pepper: 'p'.repeat(16) }],
  recordAuth: [
    'database',
    {
      ...{
        event: 'login',
        success: true,
        reason: 'r',
        userId: id,
        email: 'a@b.example',
        pepper: 'p'.repeat(16),
      },
      ...{ ip: '10.0.0.1', userAgent: 'u', requestId: 'q' },
    },
  ],
  countRecentFailures: [
    'database',
    { email: 'a@b.example', pepper: 'p'.repeat(16), userId: id, ip: '10.0.0.1', windowMs: 1_000 },
  ],
  listAuthLogs: [
    'database',
    {
      userId: id,
      email: 'a@b.example',
      pepper: 'p'.repeat(16),
      ip: '10.0.0.1',
      since,
      until,
      after: at,
      limit: 1,
    },
  ],
  claimBudgetAlerts: ['scope', { limit: 1 }],
  listBudgetAlerts: ['scope', { budgetId: id, ...page }],
  createBudget: [
    'scope',
    {
      ...{ name: 'n', scope: 'model', subject: 'a/b', period: 'day', mode: 'warn', limitNanos: 1n },
      ...{ thresholds: [50], shards: 1 },
    },
  ],
  updateBudget: [
    'scope',
    { id, name: 'n', mode: 'warn', limitNanos: 1n, thresholds: [50], shards: 1 },
  ],
  getBudget: ['scope', id],
  removeBudget: ['scope', id],
  listBudgets: ['scope', { scope: 'model', ...page }],
  budgetStatus: [
    'scope',
    { budgetId: id, subject: 's', userId: id, after: { budgetId: id, subject: 's' }, limit: 1 },
  ],
  budgetDrift: ['scope'],
  listSources: ['scope', { sourceType: 'note', after: 'n', limit: 1 }],
  listChunks: ['scope', { ...source, after: 1, limit: 1 }],
  compareSpaces: [
    'scope',
    { queries: ['q'], old: { space, model }, new: { space, model }, k: 1, filters },
  ],
  assembleContext: [
    'scope',
    {
      ...{
        query: 'q',
        embedding: [1, ...new Array(15).fill(0)],
        space,
        weights: { vector: 1, text: 1 },
        diversity: 0.5,
      },
      ...{ recency: { halfLifeDays: 1, weight: 1 }, budgetTokens: 10, neighbours: 1, model: 'm' },
      ...{ sources: [{ ...filters, limit: 1, maxTokens: 5 }], countTokens: () => 1, record: true },
    },
  ],
  recordUsage: ['scope', { ...call, idempotencyKey: 'k' }],
  recordUsages: ['scope', [call]],
  listUsage: [
    'scope',
    { since, until, userId: id, provider: 'p', model: 'm', after: at, limit: 1 },
  ],
  spend: [
    'scope',
    { since, until, userId: id, period: 'day', timeZone: 'UTC', by: 'model', limit: 1 },
  ],
  topCosts: ['scope', { since, until, userId: id, by: 'model', limit: 1 }],
  recordDelivery: [
    'scope',
    { ...webhook, redaction: { names: ['a'] }, eventId: 'e', signatureOk: true },
  ],
  listDeliveries: ['scope', { direction: 'incoming', status: 'pending', provider: 'p', ...page }],
  purgeDeliveries: ['scope', { before: since, limit: 1 }],
  enqueueDelivery: [
    'scope',
    {
      ...{ ...webhook, redaction: { names: ['a'] }, url: 'https://a.example', eventId: 'e' },
      ...{ notBefore: since, maxAttempts: 1 },
    },
  ],
  claimDeliveries: ['scope', { limit: 1, leaseMs: 100 }],
  settleDelivery: [
    'scope',
    { id, leaseId: id, outcome: 'failed', responseStatus: 500, response: 'r', retryAfterMs: 1 },
  ],
  retryDelivery: ['scope', id],
  listDueOrganizations: ['database', page],
  embeddingDrift: ['database', { spaceId: id }],
  repairEmbeddings: ['database', { spaceId: id }],
  runEmbeddingJobs: ['database', jobs],
  listEmbeddingJobs: ['scope', { spaceId: id, status: 'dead', ...page }],
  retryDeadJobs: ['scope', { spaceId: id }],
  recordError: [
    'database',
    {
      ...{ level: 'error', error: 'e', stack: 's', code: 'c', context: { a: 1 }, fingerprint: 'f' },
      ...{ organizationId: id, userId: id, requestId: 'q' },
    },
  ],
  listErrorGroups: [
    'database',
    { state: 'open', since, after: { lastSeenAt: since, id }, limit: 1 },
  ],
  resolveErrorGroup: ['database', { id, resolvedBy: id }],
  listErrors: [
    'database',
    { fingerprint: 'f', organizationId: id, userId: id, since, until, after: at, limit: 1 },
  ],
  fillSpace: ['database', { ...jobs, maxWaitMs: 1 }],
  forecast: ['scope', { period: 'day', userId: id }],
  forecastBudget: ['scope', { budgetId: id, subject: 's' }],
  idempotently: [
    'scope',
    {
      ...{ key: 'k', request: { a: 1 }, leaseMs: 1_000, retentionMs: 1_000, maxResponseBytes: 10 },
      ...{ waitMs: 0 },
    },
    nothing,
  ],
  checkClaim: ['scope', { key: 'k', id }],
  upsertUser: [
    'database',
    {
      ...{ provider: 'p', subject: 's', email: 'a@b.example', displayName: 'd' },
      avatarUrl: 'https://a.example',
    },
  ],
  getUser: ['database', id],
  findUserByEmail: ['database', 'a@b.example'],
  archiveUser: ['database', id],
  restoreUser: ['database', id],
  createOrganization: [
    'database',
    { slug: 's', name: 'n', ownerId: id, kind: 'team', settings: { a: 1 }, timeZone: 'UTC' },
  ],
  getOrganization: ['database', id],
  findOrganizationBySlug: ['database', 's'],
  updateOrganization: ['database', { id, name: 'n', settings: { a: 1 }, timeZone: 'UTC' }],
  archiveOrganization: ['database', id],
  restoreOrganization: ['database', id],
  listOrganizations: ['database', { userId: id, ...page }],
  inviteMember: ['scope', { email: 'a@b.example', role: 'member', lifetimeMs: 100_000 }],
  acceptInvitation: ['database', { token: 't', userId: id }],
  revokeInvitation: ['scope', id],
  listInvitations: ['scope', page],
  acquireLock: ['scope', { name: 'l', leaseMs: 1_000, holder: 'h' }],
  extendLock: ['scope', lock, { leaseMs: 1_000 }],
  releaseLock: ['scope', lock],
  checkLock: ['scope', lock],
  withLock: ['scope', { name: 'l', leaseMs: 1_000, holder: 'h', waitMs: 0 }, nothing],
  addMember: ['scope', { userId: id, role: 'member' }],
  changeMemberRole: ['scope', { userId: id, role: 'member' }],
  removeMember: ['scope', id],
  transferOwnership: ['scope', { fromUserId: id, toUserId: uuidV7() }],
  listMembers: ['scope', page],
  metered: [
    'scope',
    {
      ...{ ...held, ...estimate, maxOutputTokens: 1, operation: 'chat', endpoint: '/', runId: id },
      ...{ metadata: { a: 1 }, idempotencyKey: 'k', waitMs: 0, onUnsettled: () => {} },
    },
    nothing,
  ],
  createNamespace: ['database', { spaceId: id, provider: 'p', name: 'n' }],
  getNamespace: ['database', id],
  listNamespaces: ['database', { spaceId: id, ...page }],
  removeNamespace: ['database', id],
  namespaceDrift: ['database', id],
  sealToken: [
    'database',
    ring,
    { ...owner, accessToken: 'a', refreshToken: 'r', scopes: ['s'], expiresAt: until },
  ],
  openToken: ['database', ring, owner],
  rotateTokens: ['database', ring, { limit: 1 }],
  listTokens: ['database', { userId: id, ...page }],
  removeToken: ['database', owner],
  purgeOps: ['database', { lockAgeMs: 1e9, batch: 100 }],
  refreshPlacements: ['scope', { id, spaceId: id }],
  claimPlacements: ['scope', { namespace: { id, spaceId: id }, limit: 1, leaseMs: 1_000 }],
  settlePlacements: [
    'scope',
    { namespaceId: id, leaseId: id, outcomes: [{ chunkId: id, outcome: 'synced', hash: 'aa' }] },
  ],
  createPrice: [
    'database',
    {
      ...{ provider: 'test', model: 'm', unit: 'input', tierFrom: 0, nanosPerMillion: 1n },
      ...{ validFrom: since, validTo: until, source: 's' },
    },
  ],
  closePrice: ['database', { id, validTo: until }],
  listPrices: ['database', { provider: 'p', model: 'm', at: since, ...page }],
  priceUsage: ['nowhere', [price], { ...counts, at: since }],
  estimateCost: ['nowhere', [price], { ...estimate, maxOutputTokens: 1 }],
  importPrices: [
    'database',
    {
      ...{ providers: ['p'], validFrom: since, dryRun: true },
      catalogue: [{ id: 'p', models: [{ id: 'm', prices: PRICES }] }],
    },
  ],
  takeTokens: ['scope', { ...bucket, per: 'user' }],
  takePublicTokens: ['database', bucket],
  repriceUsage: ['scope', { since, until, provider: 'p', model: 'm', dryRun: true }],
  reserve: ['scope', { ...held, ...estimate, maxOutputTokens: 1, userId: null }],
  settle: [
    'scope',
    {
      ...{ id, model: 'm', operation: 'chat', endpoint: '/', runId: id, metadata: { a: 1 } },
      ...{ latencyMs: 1, costNanos: 1n, status: 'estimated', ...counts },
    },
  ],
  release: ['scope', id],
  extendReservation: ['scope', { id, leaseMs: 1_000 }],
  expireReservations: ['scope', { limit: 1 }],
  purgeReservations: ['scope', { olderThanMs: 1e9, limit: 1 }],
  getReservation: ['scope', id],
  listReservations: ['scope', { state: 'held', since, ...page }],
  verifyActivity: [
    'scope',
    { since, checkpoint: head, expectedHead: { ...head, sequence: 2 }, lateMs: 1, limit: 1 },
  ],
  enableActivitySeals: ['scope'],
  disableActivitySeals: ['scope'],
  sealActivity: ['scope', { since, maxRows: 1, onProgress: () => {} }],
  search: [
    'scope',
    {
      ...{
        ...filters,
        query: 'q',
        embedding: [1, ...new Array(15).fill(0)],
        space,
        mode: 'hybrid',
        limit: 1,
      },
      ...{
        weights: { vector: 1, text: 1 },
        diversity: 0.5,
        recency: { halfLifeDays: 1, weight: 1 },
      },
      ...{ maxScan: 1_000, snippets: true, explain: true, record: false },
    },
  ],
  listSearches: ['scope', { since, after: at, limit: 1 }],
  similarTo: ['scope', { ...source, space, limit: 1, diversity: 0.5 }],
  indexSource: [
    'scope',
    {
      ...{ ...source, text: 'a b c', ownerId: null, visibility: 'shared', projectId: id },
      ...{
        categoryId: id,
        purpose: 'text',
        language: 'english',
        metadata: { a: 1 },
        occurredAt: since,
      },
      ...{ countTokens: () => 1, chunkSize: 100, chunkOverlap: 10 },
    },
  ],
  removeSource: ['scope', source],
  createSpace: [
    'database',
    {
      ...{ provider: 'p', model: 'm', dimensions: 16, distance: 'cosine', revision: 'r' },
      ...{ purpose: 'x', index: 'now', exactRows: 10 },
    },
  ],
  updateSpace: ['database', id, { exactRows: 10 }],
  getSpace: ['database', id],
  findActiveSpace: ['database', 'text'],
  listSpaces: ['database', { purpose: 'text', ...page }],
  spaceCoverage: ['database', id, { organizationId: id }],
  activateSpace: ['database', id, { force: true }],
  rollBackSpace: ['database', 'text'],
  retireSpace: ['database', id],
  dropSpace: ['database', id],
  adoptVectors: [
    'database',
    {
      ...{ space: { id }, table: 'public.t', sourceType: 'note', visibility: 'shared' },
      columns: {
        ...{ organizationId: 'o', id: 'i', content: 'c', embedding: 'e', ownerId: 'w' },
        ...{ metadata: 'm', occurredAt: 'a' },
      },
      ...{ batchSize: 1, after: ['a'] },
    },
  ],
  sweepReservations: ['database', { retentionMs: 1e9, onProgress: () => {} }],
  drainBudgetAlerts: ['database', nothing, {}],
  ensurePartitions: ['database', { from: since, to: until }],
  listPartitions: ['database'],
  buildSpaceIndex: [
    'database',
    id,
    { maintenanceMemory: '64MB', parallelWorkers: 1, maxWaitMs: 1, onProgress: () => {} },
  ],
  rollUpUsage: ['scope', { onProgress: () => {} }],
}
