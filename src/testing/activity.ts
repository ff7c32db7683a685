import { type ActivityEntry, recordActivity } from '../queries/activity.ts'
import type { Tenant } from '../tenant.ts'

/** One line of the log. Returns its id. */
export const makeActivityLog = (tenant: Tenant, entry: Partial<ActivityEntry> = {}) =>
  recordActivity(tenant, { action: 'test.happened', ...entry })
