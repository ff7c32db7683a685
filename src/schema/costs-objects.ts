import { sql } from 'drizzle-orm'
import {
  costs,
  modelPrices,
  usageDaily,
  usageEvents,
  usageKeys,
  usageRollUps,
  usageStaleDays,
} from './costs.ts'
import { budgetAlerts, budgets, budgetWindows, reservations } from './costs-budgets.ts'
import {
  managedCall,
  managedComment,
  managedConstraint,
  managedExtension,
  managedGrant,
  managedPartitioning,
} from './managed.ts'

/** In the order in which they are created. */
export const costsObjects = [
  managedExtension('btree_gist'),
  managedPartitioning(usageEvents, 'range', usageEvents.occurredAt),
  managedConstraint(
    modelPrices,
    'model_prices_validity_excl',
    sql`exclude using gist (provider with =, model with =, unit with =, tier_from with =, tstzrange(valid_from, valid_to) with &&)`,
  ),
  managedGrant('costs', sql`grant usage on schema ${costs} to plinth_app, plinth_platform`),
  managedGrant('costs.model_prices', sql`grant select on ${modelPrices} to plinth_app`),
  managedGrant(
    'costs.model_prices to plinth_platform',
    sql`grant select, insert, update, delete on ${modelPrices} to plinth_platform`,
  ),
  managedGrant('costs.usage_events', sql`grant select, insert on ${usageEvents} to plinth_app`),
  managedGrant(
    'costs.budgets',
    sql`grant select, insert, update, delete on ${budgets} to plinth_app`,
  ),
  managedGrant('costs.budget_windows', sql`grant select on ${budgetWindows} to plinth_app`),
  managedGrant('costs.reservations', sql`grant select on ${reservations} to plinth_app`),
  managedGrant('costs.budget_alerts', sql`grant select, update on ${budgetAlerts} to plinth_app`),
  managedGrant('costs.usage_keys', sql`grant select, insert on ${usageKeys} to plinth_app`),
  managedGrant('costs.usage_daily', sql`grant select on ${usageDaily} to plinth_app`),
  managedGrant('costs.usage_roll_ups', sql`grant select on ${usageRollUps} to plinth_app`),
  managedGrant(
    'costs.usage_stale_days',
    sql`grant select, insert on ${usageStaleDays} to plinth_app`,
  ),
  managedCall(
    'partitions of costs.usage_events',
    sql`select partitions.create_months('costs', 'usage_events', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(modelPrices, 'What a unit of a model costs, in a stretch of time.'),
  managedComment(usageEvents, 'A call to a model and what it cost. Append-only.'),
  managedComment(budgets, 'How much may be spent, by whom or on what, in each period.'),
  managedComment(budgetWindows, 'What was spent of a budget in a period, and what is reserved.'),
  managedComment(reservations, 'What a call may cost at most, held until its cost is known.'),
  managedComment(
    budgetAlerts,
    'That a threshold of a budget was reached in a window. Raised once.',
  ),
  managedComment(usageDaily, 'What a day of UTC has cost, by what it was for.'),
  managedComment(usageRollUps, 'How far the ledger of an organization is rolled up.'),
  managedComment(usageStaleDays, 'A day in which a line was written into what was closed.'),
  managedComment(usageKeys, 'The calls recorded under an idempotency key. Append-only.'),
]
