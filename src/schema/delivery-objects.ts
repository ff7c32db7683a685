import { sql } from 'drizzle-orm'
import { webhookDeliveries } from './activity.ts'
import { organizations } from './identity.ts'
import { managedExecute, managedFunction } from './managed.ts'
import { isContributor, scopedOrganization } from './policies.ts'

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

const enqueue = `activity.enqueue_delivery(uuid, text, text, text, text, jsonb, jsonb, integer, timestamp with time zone)`

/**
 * Adds a webhook that is to go out. Returns its id, or that of the one that has its event: whoever may add to the
 * queue may know that much of it, and read none of it.
 */
const enqueueDelivery = managedFunction(
  enqueue,
  sql`
create or replace function activity.enqueue_delivery(new_id uuid, of_provider text, named text, of_event text,
  target text, content jsonb, head jsonb, max_count integer, not_before timestamp with time zone)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  organization uuid := ${scopedOrganization};
  found_id uuid;
begin
  if organization is null or not coalesce(${isContributor}, false) then
    raise exception 'a viewer adds no webhook' using errcode = '42501';
  end if;
  -- Again where it was purged between the two.
  loop
    -- Waits for whoever is adding the same event. At the default isolation the row is seen afterwards.
    insert into ${webhookDeliveries} as d (organization_id, id, direction, status, provider, event, event_id, url,
        payload, headers, max_attempts, next_attempt_at)
      values (organization, new_id, 'outgoing', 'pending', of_provider, named, of_event, target, content, head,
        max_count, coalesce(not_before, clock_timestamp()))
      on conflict (organization_id, direction, provider, event_id) where status <> 'rejected' do nothing
      returning d.id into found_id;
    exit when found;
    select d.id into found_id from ${webhookDeliveries} d
      where d.organization_id = organization and d.direction = 'outgoing' and d.provider = of_provider
        and d.event_id = of_event and d.status <> 'rejected';
    exit when found;
  end loop;
  return found_id;
end $$`,
)

/** In the order in which they are created. */
export const deliveryObjects = [
  dueOrganizations,
  ...managedExecute(signature, 'plinth_platform'),
  enqueueDelivery,
  ...managedExecute(enqueue, 'plinth_app'),
]
