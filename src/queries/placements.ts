import { sql } from 'drizzle-orm'
import { only, rowsOf } from '../database.ts'
import { uuidV7 } from '../schema/columns.ts'
import { vectorHash } from '../schema/offloading.ts'
import { embeddings, type Namespace, placements } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import {
  checkInteger,
  checkItem,
  checkLimit,
  checkList,
  checkNumber,
  checkOneOf,
  checkText,
  checkUuid,
} from '../validation.ts'

/** How many vectors one statement looks at. */
const PAGE = 5_000
const MAX_BATCH = 1_000

/** Of a namespace, what a placement is found by. */
type PlacedIn = Pick<Namespace, 'id' | 'spaceId'>

export interface RefreshedPlacements {
  /** Vectors that had no placement. */
  placed: number
  /** Those that another vector has taken the place of since they were sent. */
  changed: number
  /** Those whose chunk or vector is gone. */
  gone: number
}

/** A page of a slice, in the order of its chunks. */
interface Page {
  count: number
  last: string | null
}

/**
 * Looks through the vectors of the organization and says what is to be done in a namespace: what has no
 * placement gets one, what has changed is `pending` again, and what is gone is `deleting`. Idempotent.
 *
 * Leaves alone what is leased, and what is dead while its vector is here; a deletion that was given up is due
 * again. For admins and services.
 *
 * @throws {ValidationError}
 */
export async function refreshPlacements(
  tenant: Tenant,
  namespace: PlacedIn,
): Promise<RefreshedPlacements> {
  checkUuid('id', namespace.id)
  checkUuid('spaceId', namespace.spaceId)
  const refreshed = { placed: 0, changed: 0, gone: 0 }
  await pages(async (after) => {
    const { placed, changed, ...page } = await placeMissing(tenant, namespace, after)
    refreshed.placed += placed
    refreshed.changed += changed
    return page
  })
  await pages(async (after) => {
    const { gone, ...page } = await markGone(tenant, namespace, after)
    refreshed.gone += gone
    return page
  })
  return refreshed
}

async function pages(read: (after: string | null) => Promise<Page>): Promise<void> {
  for (let after: string | null = null; ; ) {
    const { count, last }: Page = await read(after)
    if (count < PAGE || last === null) return
    after = last
  }
}

/** As the columns keep it: what is due from now on would else be due a part of a millisecond later. */
const clock = sql`now()::timestamptz(3)`

/** What is leased is in somebody's hands, who is to write down first what came of it. */
const isFree = sql`(p.leased_until is null or p.leased_until <= ${clock})`

const placeMissing = async (
  { db, organizationId }: Tenant,
  { id, spaceId }: PlacedIn,
  after: string | null,
) =>
  only(
    await rowsOf<Page & { placed: number; changed: number }>(
      db,
      sql`
        with page as materialized (
          select e.chunk_id, ${vectorHash} as hash from ${embeddings} e
          where e.organization_id = ${organizationId} and e.space_id = ${spaceId}
            and (${after}::uuid is null or e.chunk_id > ${after}::uuid)
          order by e.chunk_id limit ${PAGE}::integer
        ), placed as (
          insert into ${placements} (organization_id, namespace_id, chunk_id)
          select ${organizationId}, ${id}, page.chunk_id from page
          left join ${placements} p on p.organization_id = ${organizationId}
            and p.namespace_id = ${id} and p.chunk_id = page.chunk_id
          where p.chunk_id is null
          on conflict do nothing
          returning chunk_id
        ), changed as (
          update ${placements} as p
          set status = 'pending', attempts = 0, due_at = now(), updated_at = now()
          from page
          where p.organization_id = ${organizationId} and p.namespace_id = ${id}
            and p.chunk_id = page.chunk_id and ${isFree}
            and (p.status = 'deleting'
              or (p.status = 'synced' and p.synced_hash is distinct from page.hash))
          returning p.chunk_id
        )
        select (select count(*) from placed)::integer as placed,
          (select count(*) from changed)::integer as changed,
          (select count(*) from page)::integer as count,
          (select chunk_id from page order by chunk_id desc limit 1) as last`,
    ),
  )

const markGone = async (
  { db, organizationId }: Tenant,
  { id, spaceId }: PlacedIn,
  after: string | null,
) =>
  only(
    await rowsOf<Page & { gone: number }>(
      db,
      sql`
        with page as materialized (
          select p.chunk_id, e.chunk_id is null as is_gone from ${placements} p
          left join ${embeddings} e on e.organization_id = p.organization_id
            and e.space_id = ${spaceId} and e.chunk_id = p.chunk_id
          where p.organization_id = ${organizationId} and p.namespace_id = ${id}
            and (${after}::uuid is null or p.chunk_id > ${after}::uuid)
          order by p.chunk_id limit ${PAGE}::integer
        ), gone as (
          update ${placements} as p
          set status = 'deleting', attempts = 0, due_at = now(), updated_at = now()
          from page
          where p.organization_id = ${organizationId} and p.namespace_id = ${id}
            and p.chunk_id = page.chunk_id and page.is_gone and p.status <> 'deleting' and ${isFree}
          returning p.chunk_id
        )
        select (select count(*) from gone)::integer as gone, (select count(*) from page)::integer as count,
          (select chunk_id from page order by chunk_id desc limit 1) as last`,
    ),
  )

/** A placement that somebody has taken on, until the lease ends. */
export interface ClaimedPlacement {
  chunkId: string
  leaseId: string
  /** Of earlier failures. */
  attempts: number
  /** What is to be sent, rounded to half precision; null: it is to be deleted. */
  vector: number[] | null
  /** SHA-256 of the vector as it is kept here, in hex; null without one. */
  hash: string | null
}

export interface ClaimPlacementsOptions {
  namespace: PlacedIn
  /** Up to 1,000. */
  limit: number
  /** How long nobody else gets them, in milliseconds. */
  leaseMs: number
}

/**
 * Claims placements that are due, the longest due first, with their vectors; those that another one claims
 * at the same time are passed over. For admins and services.
 *
 * @throws {ValidationError}
 */
export async function claimPlacements(
  { db, organizationId }: Tenant,
  { namespace, limit, leaseMs }: ClaimPlacementsOptions,
): Promise<ClaimedPlacement[]> {
  checkUuid('namespace.id', namespace?.id)
  checkUuid('namespace.spaceId', namespace.spaceId)
  checkLimit(limit, MAX_BATCH)
  checkInteger('leaseMs', leaseMs, { min: 1, max: 86_400_000 })
  const leaseId = uuidV7()
  const rows = await rowsOf<
    Omit<ClaimedPlacement, 'vector' | 'leaseId'> & { vector: string | null }
  >(
    db,
    sql`
      with claimed as (
        update ${placements} as claimed
        set lease_id = ${leaseId}::uuid, leased_until = now() + ${leaseMs}::integer * interval '1 millisecond'
        where claimed.organization_id = ${organizationId} and claimed.namespace_id = ${namespace.id}
          and claimed.chunk_id = any(array(
            select p.chunk_id from ${placements} p
            where p.organization_id = ${organizationId} and p.namespace_id = ${namespace.id}
              and p.status in ('pending', 'deleting') and p.due_at <= ${clock} and ${isFree}
            order by p.due_at, p.chunk_id limit ${limit}
            for update skip locked))
        returning claimed.chunk_id, claimed.attempts, claimed.status
      )
      select c.chunk_id as "chunkId", c.attempts, e.embedding::text as vector,
        encode(${vectorHash}, 'hex') as hash
      from claimed c left join ${embeddings} e on e.organization_id = ${organizationId}
        and e.space_id = ${namespace.spaceId} and e.chunk_id = c.chunk_id and c.status = 'pending'
      order by c.chunk_id`,
  )
  return rows.map(({ vector, ...row }) => ({
    ...row,
    leaseId,
    vector: vector === null ? null : JSON.parse(vector),
  }))
}

/** What came of a claimed placement. */
export type PlacementOutcome =
  | { chunkId: string; outcome: 'synced'; hash: string }
  | { chunkId: string; outcome: 'deleted' }
  /** To be tried again after a time; dead: not before somebody says so. */
  | { chunkId: string; outcome: 'failed'; error: string; retryMs: number; isDead: boolean }
  /** Given back, as if it had not been claimed. */
  | { chunkId: string; outcome: 'released' }

/**
 * Writes down what came of placements that were claimed with a lease. One that has another lease by now is
 * left alone: somebody else has it in hand.
 *
 * @throws {ValidationError}
 */
export async function settlePlacements(
  { db, organizationId }: Tenant,
  {
    namespaceId,
    leaseId,
    outcomes,
  }: { namespaceId: string; leaseId: string; outcomes: readonly PlacementOutcome[] },
): Promise<void> {
  checkUuid('namespaceId', namespaceId)
  checkUuid('leaseId', leaseId)
  checkList('outcomes', outcomes, { max: MAX_BATCH })
  for (const [at, one] of outcomes.entries()) {
    checkItem(`outcomes[${at}]`, one, () => checkOutcome(one))
  }
  const deleted = outcomes.filter(({ outcome }) => outcome === 'deleted')
  if (deleted.length > 0) {
    const ids = JSON.stringify(deleted.map(({ chunkId }) => chunkId))
    await rowsOf(
      db,
      sql`delete from ${placements} where organization_id = ${organizationId}
          and namespace_id = ${namespaceId} and lease_id = ${leaseId}
          and chunk_id = any(array(select json_array_elements_text(${ids}::text::json)::uuid))`,
    )
  }
  const others = outcomes.filter(({ outcome }) => outcome !== 'deleted')
  if (others.length === 0) return
  await rowsOf(
    db,
    sql`
      update ${placements} as p set
        status = case when o.outcome = 'synced' then 'synced' when o."isDead" then 'dead'
          else p.status::text end::search.placement_status,
        attempts = case o.outcome when 'synced' then 0 when 'failed' then p.attempts + 1 else p.attempts end,
        synced_hash = coalesce(decode(o.hash, 'hex'), p.synced_hash),
        synced_at = case o.outcome when 'synced' then now() else p.synced_at end,
        last_error = case o.outcome when 'synced' then null when 'failed' then o.error else p.last_error end,
        due_at = now() + coalesce(o."retryMs", 0) * interval '1 millisecond',
        lease_id = null, leased_until = null, updated_at = now()
      from json_to_recordset(${JSON.stringify(others)}::text::json) as o (
        "chunkId" uuid, outcome text, hash text, error text, "retryMs" float8, "isDead" boolean)
      where p.organization_id = ${organizationId} and p.namespace_id = ${namespaceId}
        and p.lease_id = ${leaseId} and p.chunk_id = o."chunkId"`,
  )
}

function checkOutcome(one: PlacementOutcome) {
  checkUuid('chunkId', one.chunkId)
  checkOneOf('outcome', one.outcome, ['synced', 'deleted', 'failed', 'released'])
  if (one.outcome === 'synced') checkText('hash', one.hash, { max: 200 })
  if (one.outcome !== 'failed') return
  checkText('error', one.error, { min: 0 })
  checkNumber('retryMs', one.retryMs, { min: 0, max: 1e12 })
}

/** A placement that is in order, and what the other engine must have of it. */
export interface PlacedVector {
  chunkId: string
  hash: string
  /** Where it was asked for; null if there is none any more. */
  vector: number[] | null
}

export interface ListPlacedOptions {
  namespace: PlacedIn
  /** Those of these chunks only. */
  chunkIds?: readonly string[]
  /** The chunk of the last placement of the previous page. */
  after?: string | undefined
  /** Up to 1,000. */
  limit?: number
}

/**
 * Lists what is in order in a namespace, by chunk; with their vectors if it is of certain chunks. What is
 * leased, and what has changed here since it was sent, is not in order. For admins and services.
 *
 * @throws {ValidationError}
 */
export async function listPlaced(
  { db, organizationId }: Tenant,
  { namespace, chunkIds, after, limit = MAX_BATCH }: ListPlacedOptions,
): Promise<PlacedVector[]> {
  checkUuid('namespace.id', namespace.id)
  checkUuid('namespace.spaceId', namespace.spaceId)
  if (chunkIds !== undefined) checkList('chunkIds', chunkIds, { max: MAX_BATCH })
  if (after !== undefined) checkUuid('after', after)
  checkLimit(limit, MAX_BATCH)
  const isWanted = chunkIds
    ? sql` and p.chunk_id = any(array(select json_array_elements_text(${JSON.stringify(chunkIds)}::text::json)::uuid))`
    : sql``
  const rows = await rowsOf<Omit<PlacedVector, 'vector'> & { vector: string | null }>(
    db,
    sql`
      select p.chunk_id as "chunkId", encode(p.synced_hash, 'hex') as hash,
        ${chunkIds ? sql`e.embedding::text` : sql`null::text`} as vector
      from ${placements} p join ${embeddings} e on e.organization_id = p.organization_id
        and e.space_id = ${namespace.spaceId} and e.chunk_id = p.chunk_id
      where p.organization_id = ${organizationId} and p.namespace_id = ${namespace.id}
        and p.status = 'synced' and p.synced_hash = ${vectorHash} and ${isFree}
        and (${after ?? null}::uuid is null or p.chunk_id > ${after ?? null}::uuid)${isWanted}
      order by p.chunk_id limit ${limit}`,
  )
  return rows.map(({ vector, ...row }) => ({
    ...row,
    vector: vector === null ? null : JSON.parse(vector),
  }))
}

/**
 * Has placements sent again: those of some chunks, or without `chunkIds` all that were given up. Returns how many.
 * Idempotent. For admins and services.
 *
 * @throws {ValidationError}
 */
export async function resendPlacements(
  { db, organizationId }: Tenant,
  { namespaceId, chunkIds }: { namespaceId: string; chunkIds?: readonly string[] },
): Promise<number> {
  checkUuid('namespaceId', namespaceId)
  if (chunkIds !== undefined) checkList('chunkIds', chunkIds, { max: MAX_BATCH })
  const which = chunkIds
    ? sql`p.status in ('synced', 'dead')
        and p.chunk_id = any(array(select json_array_elements_text(${JSON.stringify(chunkIds)}::text::json)::uuid))`
    : sql`p.status = 'dead'`
  const rows = await rowsOf(
    db,
    sql`update ${placements} as p
        set status = 'pending', attempts = 0, due_at = now(), updated_at = now()
        where p.organization_id = ${organizationId} and p.namespace_id = ${namespaceId} and ${which}
          and ${isFree}
        returning p.chunk_id`,
  )
  return rows.length
}

/**
 * Has vectors deleted that the other engine holds and nothing here knows of. One that has a placement by
 * now is left alone. For admins and services.
 *
 * @throws {ValidationError}
 */
export async function deletePlaced(
  { db, organizationId }: Tenant,
  { namespaceId, chunkIds }: { namespaceId: string; chunkIds: readonly string[] },
): Promise<void> {
  checkUuid('namespaceId', namespaceId)
  checkList('chunkIds', chunkIds, { max: MAX_BATCH })
  await rowsOf(
    db,
    sql`insert into ${placements} (organization_id, namespace_id, chunk_id, status)
        select ${organizationId}, ${namespaceId}, json_array_elements_text(${JSON.stringify(chunkIds)}::text::json)::uuid,
          'deleting'
        on conflict do nothing`,
  )
}

/** Counts a search of a namespace `times` times, unless another transaction is counting; whether it did. */
export async function countQueries(
  { db }: Tenant,
  { namespaceId, times }: { namespaceId: string; times: number },
): Promise<boolean> {
  checkUuid('namespaceId', namespaceId)
  checkInteger('times', times, { min: 1, max: 1_000_000 })
  const rows = await rowsOf<{ counted: boolean }>(
    db,
    sql`select search.count_queries(${namespaceId}, ${times}::integer) as counted`,
  )
  return only(rows).counted
}
