import { type ActivityEntry, recordActivity } from '../queries/activity.ts'
import { enableActivitySeals, sealActivity } from '../queries/seals.ts'
import type { Tenant } from '../tenant.ts'

/** One line of the log. Returns its id. */
export const makeActivityLog = (tenant: Tenant, entry: Partial<ActivityEntry> = {}) =>
  recordActivity(tenant, { action: 'test.happened', ...entry })

/** One line of a log that is sealed. Returns its id. For an admin or a service. */
export async function makeSealedActivity(tenant: Tenant, entry: Partial<ActivityEntry> = {}) {
  const id = await makeActivityLog(tenant, entry)
  await enableActivitySeals(tenant)
  await sealActivity(tenant)
  return id
}
