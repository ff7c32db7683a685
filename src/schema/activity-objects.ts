import { sql } from 'drizzle-orm'
import {
  activity,
  activityChains,
  activityLogs,
  activitySeals,
  authLogs,
  errorGroups,
  errorLogs,
  sealedRows,
  webhookDeliveries,
} from './activity.ts'
import { managedCall, managedComment, managedGrant, managedPartitioning } from './managed.ts'

/** In the order in which they are created. */
export const activityObjects = [
  managedPartitioning(activityLogs, 'range', activityLogs.occurredAt),
  managedGrant('activity', sql`grant usage on schema ${activity} to plinth_app, plinth_platform`),
  managedGrant(
    'activity.activity_logs',
    sql`grant select, insert on ${activityLogs} to plinth_app`,
  ),
  managedGrant(
    'activity.chains',
    sql`grant select, insert, update, delete on ${activityChains} to plinth_app`,
  ),
  managedGrant('activity.seals', sql`grant select on ${activitySeals} to plinth_app`),
  managedGrant('activity.sealed_rows', sql`grant select on ${sealedRows} to plinth_app`),
  managedCall(
    'partitions of activity.activity_logs',
    sql`select partitions.create_months('activity', 'activity_logs', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(activityLogs, 'Who did what to which thing. Append-only.'),
  managedPartitioning(authLogs, 'range', authLogs.occurredAt),
  managedPartitioning(errorLogs, 'range', errorLogs.occurredAt),
  managedGrant('activity.auth_logs', sql`grant select, insert on ${authLogs} to plinth_platform`),
  managedGrant('activity.error_logs', sql`grant select, insert on ${errorLogs} to plinth_platform`),
  managedGrant(
    'activity.error_groups',
    sql`grant select, insert, update on ${errorGroups} to plinth_platform`,
  ),
  managedGrant(
    'activity.webhook_deliveries',
    sql`grant select, insert, update, delete on ${webhookDeliveries} to plinth_app`,
  ),
  managedCall(
    'partitions of activity.auth_logs',
    sql`select partitions.create_months('activity', 'auth_logs', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedCall(
    'partitions of activity.error_logs',
    sql`select partitions.create_months('activity', 'error_logs', now() - interval '1 month', now() + interval '12 months')`,
  ),
  managedComment(authLogs, 'Who tried to get in, and whether they did. Append-only.'),
  managedComment(webhookDeliveries, 'A webhook that came in, or one that is to go out.'),
  managedComment(errorLogs, 'One occurrence of something that went wrong. Append-only.'),
  managedComment(errorGroups, 'Errors of one cause, open or resolved.'),
  managedComment(activityChains, 'Whether the log of an organization is sealed.'),
  managedComment(activitySeals, 'A sealed batch of lines of the log; a chain by their hashes.'),
  managedComment(sealedRows, 'The digest of a line of the log as it was when it was sealed.'),
]
