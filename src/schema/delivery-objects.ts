import { sql } from 'drizzle-orm'
import { webhookDeliveries } from './activity.ts'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'

const signature = 'activity.due_organizations(uuid, integer)'

/** Before every organization. */
const FIRST = sql.raw(`'00000000-0000-0000-0000-000000000000'::uuid`)

/**
 * Organizations with webhooks that are due, by id. It goes from one organization to the next in the index,
 * and reads no more than one entry of each.
 */
const dueOrganizations = managedFunction(
  signature,
  sql`
create or replace function activity.due_organizations(after uuid, max_rows integer)
returns setof uuid language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := coalesce(after, ${FIRST});
  due timestamptz;
  given integer := 0;
begin
  while given < max_rows loop
    select d.organization_id, d.next_attempt_at into organization, due from ${webhookDeliveries} d
      where d.status = 'pending' and d.organization_id > organization
      order by d.organization_id, d.next_attempt_at limit 1;
    exit when not found;
    perform 1 from ${organizations} o where o.id = organization and o.archived_at is null;
    if found and due <= clock_timestamp() then
      return next organization;
      given := given + 1;
    end if;
  end loop;
end $$`,
)

/** In the order in which they are created. */
export const deliveryObjects = [dueOrganizations, ...managedExecute(signature, 'plinth_platform')]
