import { activityObjects } from './activity.ts'
import { aiObjects } from './ai.ts'
import { costsObjects } from './costs.ts'
import { driftObjects } from './drift.ts'
import { identityObjects } from './identity.ts'
import { ledgerObjects } from './ledger.ts'
import type { ManagedObject } from './managed.ts'
import { offloadingObjects } from './offloading.ts'
import { partitionObjects } from './partitions.ts'
import { roleObjects } from './policies.ts'
import { retrievalObjects } from './retrieval.ts'
import { sealObjects } from './seals.ts'
import { searchObjects } from './search-objects.ts'
import { spaceObjects } from './spaces.ts'
import { usageDailyObjects } from './usage-daily.ts'
import { wordObjects } from './words.ts'

/** Every managed object of the schema, in the order in which they are created. */
export const managedObjects: readonly ManagedObject[] = [
  ...roleObjects,
  ...partitionObjects,
  ...identityObjects,
  ...searchObjects,
  ...retrievalObjects,
  ...wordObjects,
  ...spaceObjects,
  ...driftObjects,
  ...offloadingObjects,
  ...costsObjects,
  ...ledgerObjects,
  ...usageDailyObjects,
  ...activityObjects,
  ...sealObjects,
  ...aiObjects,
]
