// Reserves all of a budget in a process of its own, which a test kills: RESERVE has url, scope and leaseMs.
import { connect } from '../../src/database.ts'
import { reserve } from '../../src/queries/reservations.ts'
import { inTenant } from '../../src/tenant.ts'

const { url, scope, leaseMs } = JSON.parse(process.env.RESERVE ?? '{}')
const db = await connect(url, { maxConnections: 1 })
const outcome = await inTenant(db, scope, (tenant) =>
  reserve(tenant, { provider: 'test', model: 'test-model', amountNanos: 10n, leaseMs }),
)
if (!outcome.granted) throw new Error('not granted')
const { id, leasedUntil } = outcome.reservation
process.send?.(JSON.stringify({ id, leasedUntil }))
// The call, which never ends.
setInterval(() => {}, 1_000)
