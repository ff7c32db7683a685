import type { Database } from '../database.ts'
import { type ActivityEntry, recordActivity } from '../queries/activity.ts'
import { type AuthEntry, recordAuth } from '../queries/auth-logs.ts'
import { type EnqueueDeliveryOptions, enqueueDelivery } from '../queries/delivery-queue.ts'
import { type ErrorEntry, recordError } from '../queries/error-logs.ts'
import { enableActivitySeals, sealActivity } from '../queries/seals.ts'
import type { Tenant } from '../tenant.ts'

/** One line of the log. Returns its id. */
export const makeActivityLog = (tenant: Tenant, entry: Partial<ActivityEntry> = {}) =>
  recordActivity(tenant, { action: 'test.happened', ...entry })

/** A failed login. Returns its id. */
export const makeAuthLog = (db: Database, entry: Partial<AuthEntry> = {}) =>
  recordAuth(db, { event: 'login', success: false, email: 'ann@example.com', ...entry })

/** A webhook that is to go out. Returns its id. */
export const makeWebhookDelivery = (
  tenant: Tenant,
  delivery: Partial<EnqueueDeliveryOptions> = {},
) =>
  enqueueDelivery(tenant, {
    provider: 'test',
    event: 'test.happened',
    url: 'https://example.com/hook',
    payload: {},
    ...delivery,
  })

/** One occurrence of an error, and its group. */
export const makeErrorLog = (db: Database, entry: Partial<ErrorEntry> = {}) =>
  recordError(db, { error: new Error('anything'), ...entry })
/** One line of a log that is sealed. Returns its id. For an admin or a service. */
export async function makeSealedActivity(tenant: Tenant, entry: Partial<ActivityEntry> = {}) {
  const id = await makeActivityLog(tenant, entry)
  await enableActivitySeals(tenant)
  await sealActivity(tenant)
  return id
}
