// Holds a tenant's lock or key in a process of its own, which a test may kill or stop: url, organization, user, what it
// holds, its name. It says what it does, and writes one line of activity, fenced.
import { setTimeout as pause } from 'node:timers/promises'
import { connect } from '../../src/database.ts'
import { recordActivity } from '../../src/queries/activity.ts'
import { checkClaim, idempotently } from '../../src/queries/idempotency.ts'
import { checkLock, withLock } from '../../src/queries/locks.ts'
import { inTenant, type Tenant } from '../../src/tenant.ts'

const [url = '', organizationId = '', userId = '', what = '', name = ''] = process.argv.slice(2)
const db = await connect(url, { maxConnections: 4, prepare: !process.env.UNPREPARED })
const scope = { organizationId, userId }
const tenancy = { db, ...scope }
const say = (text: string) => process.stdout.write(`${text}\n`)
const leaseMs = 2_000

/** Long enough to be stopped in, and short of a lease. */
const nap = () => pause(1_000)

const write = (check: (tenant: Tenant) => Promise<void>, napWithin: boolean) =>
  inTenant(db, scope, async (tenant) => {
    await check(tenant)
    say('checked')
    if (napWithin) await nap()
    await recordActivity(tenant, { action: 'child.wrote' })
  })

const work = async (check: (tenant: Tenant) => Promise<void>, signal: AbortSignal) => {
  signal.addEventListener('abort', () => say('aborted'))
  say('held')
  if (what !== 'lock-checked') await nap()
  await write(check, what === 'lock-checked')
  say('written')
}

try {
  if (what === 'key') {
    await idempotently(tenancy, { key: name, request: 1, leaseMs }, (claim) =>
      work((tenant) => checkClaim(tenant, claim), claim.signal),
    )
  } else {
    await withLock(tenancy, { name, leaseMs, holder: 'child' }, (lock) =>
      work((tenant) => checkLock(tenant, lock), lock.signal),
    )
  }
  say('done')
} catch (error) {
  say(error instanceof Error ? `${error.name} ${'reason' in error ? error.reason : ''}` : 'thrown')
}
await db.close()
