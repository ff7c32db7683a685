import { accessObjects } from './access.ts'
import { activityObjects } from './activity-objects.ts'
import { aiObjects } from './ai.ts'
import { budgetObjects } from './budget-objects.ts'
import { budgetWindowObjects } from './budget-windows.ts'
import { costsObjects } from './costs-objects.ts'
import { deliveryObjects } from './delivery-objects.ts'
import { driftObjects } from './drift.ts'
import { guardObjects } from './guards.ts'
import { identityObjects } from './identity.ts'
import { ledgerObjects } from './ledger.ts'
import type { ManagedObject } from './managed.ts'
import { offloadingObjects } from './offloading.ts'
import { opsObjects } from './ops.ts'
import { partitionObjects } from './partitions.ts'
import { roleObjects } from './policies.ts'
import { reservationObjects } from './reservation-objects.ts'
import { retrievalObjects } from './retrieval.ts'
import { scopeObjects } from './scopes.ts'
import { sealObjects } from './seals.ts'
import { searchObjects } from './search-objects.ts'
import { spaceObjects } from './spaces.ts'
import { usageDailyObjects } from './usage-daily.ts'
import { wordObjects } from './words.ts'

/** Every managed object of the schema, in the order in which they are created. */
export const managedObjects: readonly ManagedObject[] = [
  ...roleObjects,
  ...partitionObjects,
  ...scopeObjects,
  ...identityObjects,
  ...accessObjects,
  ...searchObjects,
  ...retrievalObjects,
  ...wordObjects,
  ...spaceObjects,
  ...driftObjects,
  ...offloadingObjects,
  ...costsObjects,
  ...ledgerObjects,
  ...budgetWindowObjects,
  ...budgetObjects,
  ...reservationObjects,
  ...usageDailyObjects,
  ...activityObjects,
  ...deliveryObjects,
  ...sealObjects,
  ...aiObjects,
  ...opsObjects,
  ...guardObjects,
]
