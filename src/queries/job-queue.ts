import { sql } from 'drizzle-orm'
import { type Database, only, rowsOf } from '../database.ts'
import { vectorText } from '../embedding.ts'
import { chunks, embeddingJobs, embeddings, spaces } from '../schema/search.ts'
import type { Tenant } from '../tenant.ts'
import { keptText } from '../validation.ts'

/** Chunks that one statement looks at for what is missing. */
const ENQUEUE_BATCH = 5_000

/** From so many failures on a job is done alone, so that one bad text does not sink its batch. */
const APART = 2

/** A job is tried again after 2, 4, 8 … seconds, and never later than after this. */
const LONGEST_DELAY_S = 900

/** Of a message that is kept, in characters. */
const MAX_ERROR = 300

/** Which claim of which space. A late writer has a lease that no job carries any more. */
export interface Lease {
  readonly spaceId: string
  readonly leaseId: string
}

export interface ClaimedJob {
  id: string
  /** How often it has failed. */
  attempts: number
  content: string
  /** SHA-256 of the content, in hexadecimal. */
  hash: string
  tokens: number
}

interface ClaimOptions extends Lease {
  leaseMs: number
  maxBatch: number
  maxTokens: number
}

interface Claim {
  /** The longest due first. */
  jobs: ClaimedJob[]
  /** Jobs that had nothing left to do, and are gone. */
  settled: number
}

/**
 * Claims jobs of the organization that are due and not under a live lease, up to a number of jobs and of
 * tokens, and at least one. What another worker is claiming is passed over.
 */
export async function claimJobs(
  { db, organizationId }: Tenant,
  { spaceId, leaseId, leaseMs, maxBatch, maxTokens }: ClaimOptions,
): Promise<Claim> {
  const rows = await rowsOf<ClaimedJob & { isDone: boolean }>(
    db,
    sql`
      with claimed as (
        update ${embeddingJobs} j set lease_id = ${leaseId}::uuid, updated_at = now(),
          leased_until = now() + make_interval(secs => ${leaseMs}::float8 / 1000)
        where j.organization_id = ${organizationId} and j.space_id = ${spaceId}
          and j.chunk_id = any(array(
            select p.chunk_id from (
              select d.chunk_id, d.attempts, row_number() over w as place,
                first_value(d.attempts) over w as first_attempts, sum(d.token_count) over w as running
              from (
                -- As due_at is kept, to the millisecond: what is added now is due now.
                select i.chunk_id, i.attempts, i.due_at, c.token_count
                from ${embeddingJobs} i
                join ${chunks} c on c.organization_id = i.organization_id and c.id = i.chunk_id
                where i.organization_id = ${organizationId} and i.space_id = ${spaceId}
                  and i.status = 'pending' and i.due_at <= now()::timestamptz(3)
                  and (i.leased_until is null or i.leased_until <= now())
                order by i.due_at, i.chunk_id limit ${maxBatch}
                for update of i skip locked
              ) d
              window w as (order by d.due_at, d.chunk_id)
            ) p
            where p.place = 1 or (p.first_attempts < ${APART}::integer
              and p.attempts < ${APART}::integer and p.running <= ${maxTokens}::bigint)))
        returning j.chunk_id, j.attempts, j.due_at
      )
      select c.id, j.attempts, c.content, encode(c.content_hash, 'hex') as hash, c.token_count as tokens,
        c.purpose <> s.purpose or coalesce(e.content_hash = c.content_hash, false) as "isDone"
      from claimed j
      join ${chunks} c on c.organization_id = ${organizationId} and c.id = j.chunk_id
      join ${spaces} s on s.id = ${spaceId}
      left join ${embeddings} e on e.organization_id = c.organization_id and e.space_id = ${spaceId}
        and e.chunk_id = c.id
      order by j.due_at, c.id`,
  )
  const done = rows.filter(({ isDone }) => isDone).map(({ id }) => id)
  if (done.length > 0) {
    await rowsOf(
      db,
      sql`
        delete from ${embeddingJobs} where organization_id = ${organizationId} and space_id = ${spaceId}
          and chunk_id = any(array(select json_array_elements_text(${JSON.stringify(done)}::text::json)::uuid))
        returning chunk_id`,
    )
  }
  const jobs = rows.filter(({ isDone }) => !isDone)
  return { jobs: jobs.map(({ isDone: _, ...job }) => job), settled: done.length }
}

/** A vector, and of which content. */
export interface JobVector {
  id: string
  hash: string
  embedding: readonly number[]
}

/**
 * Writes the vectors of jobs that still carry the lease, where the chunk says what it said, and deletes
 * those jobs. Returns how many that were.
 *
 * A chunk that somebody is writing is passed over: to wait for it could be to wait in a circle.
 */
export async function writeVectors(
  { db, organizationId }: Tenant,
  { spaceId, leaseId }: Lease,
  vectors: readonly JobVector[],
): Promise<number> {
  if (vectors.length === 0) return 0
  const records = vectors.map(({ id, hash, embedding }) => ({ id, hash, v: vectorText(embedding) }))
  const { written } = only(
    await rowsOf<{ written: number }>(
      db,
      sql`
        with held as materialized (
          -- Locked: owner and visibility are copied, and must not change before they are.
          select c.id, c.owner_id, c.visibility, c.source_type, c.content_hash
          from ${embeddingJobs} j
          join ${chunks} c on c.organization_id = j.organization_id and c.id = j.chunk_id
          where j.organization_id = ${organizationId} and j.space_id = ${spaceId}
            and j.lease_id = ${leaseId}::uuid
          for update of j for share of c skip locked
        ), written as (
          insert into ${embeddings} (organization_id, space_id, chunk_id, owner_id, visibility,
            source_type, embedding, content_hash)
          select ${organizationId}::uuid, ${spaceId}::uuid, h.id, h.owner_id, h.visibility, h.source_type,
            new.v::public.halfvec, h.content_hash
          from held h
          join json_to_recordset(${JSON.stringify(records)}::text::json) as new (id uuid, hash text, v text)
            on new.id = h.id and decode(new.hash, 'hex') = h.content_hash
          on conflict (organization_id, space_id, chunk_id) do update set
            owner_id = excluded.owner_id, visibility = excluded.visibility,
            source_type = excluded.source_type, embedding = excluded.embedding,
            content_hash = excluded.content_hash
          returning chunk_id
        ), done as (
          delete from ${embeddingJobs} j using written w
          where j.organization_id = ${organizationId} and j.space_id = ${spaceId}
            and j.chunk_id = w.chunk_id
          returning 1
        )
        select count(*)::integer as written from done`,
    ),
  )
  return written
}

export interface JobFailure {
  id: string
  /** What is kept of the reason. */
  error: string
}

interface FailOptions extends Lease {
  maxAttempts: number
  /** `retry` later, try it `apart` from the others at once, or `give_up`. */
  next: 'retry' | 'apart' | 'give_up'
}

/** Counts a failure of jobs that still carry the lease, and gives them back. Returns what became of them. */
export async function failJobs(
  { db, organizationId }: Tenant,
  { spaceId, leaseId, maxAttempts, next }: FailOptions,
  failures: readonly JobFailure[],
): Promise<{ failed: number; dead: number }> {
  if (failures.length === 0) return { failed: 0, dead: 0 }
  const records = failures.map(({ id, error }) => ({ id, error: keptText(error, MAX_ERROR) }))
  const [least, isFinal] = [next === 'apart' ? APART : 1, next === 'give_up']
  // So that those who failed together do not come back together.
  const jitter = 0.5 + Math.random() / 2
  const rows = await rowsOf<{ status: string }>(
    db,
    sql`
      update ${embeddingJobs} j set attempts = greatest(j.attempts + 1, ${least}::integer),
        status = case when ${isFinal} or (${next !== 'apart'} and j.attempts + 1 >= ${maxAttempts}::integer)
          then 'dead' else 'pending' end::search.embedding_job_status,
        due_at = now() + case when ${next === 'apart'} then interval '0' else make_interval(
          secs => least(power(2, least(j.attempts + 1, 20)), ${LONGEST_DELAY_S}::float8) * ${jitter}::float8) end,
        last_error = new.error, lease_id = null, leased_until = null, updated_at = now()
      from json_to_recordset(${JSON.stringify(records)}::text::json) as new (id uuid, error text)
      where j.organization_id = ${organizationId} and j.space_id = ${spaceId}
        and j.lease_id = ${leaseId}::uuid and j.chunk_id = new.id
      returning j.status`,
  )
  return { failed: rows.length, dead: rows.filter(({ status }) => status === 'dead').length }
}

/** Gives back what still carries the lease, due after a while. */
export async function releaseJobs(
  { db, organizationId }: Tenant,
  { spaceId, leaseId }: Lease,
  delayMs: number,
): Promise<void> {
  await rowsOf(
    db,
    sql`
      update ${embeddingJobs} set lease_id = null, leased_until = null, updated_at = now(),
        due_at = now() + make_interval(secs => ${delayMs}::float8 / 1000)
      where organization_id = ${organizationId} and space_id = ${spaceId}
        and lease_id = ${leaseId}::uuid
      returning chunk_id`,
  )
}

export interface DueOptions {
  spaceId: string
  organizationIds: readonly string[] | undefined
  /** The last organization of the page before. */
  after: string | undefined
  limit: number
}

/** Lists organizations with jobs that are due, by id. */
export async function dueOrganizations(
  db: Database,
  { spaceId, organizationIds, after, limit }: DueOptions,
): Promise<string[]> {
  const among = organizationIds
    ? sql`array(select json_array_elements_text(${JSON.stringify(organizationIds)}::text::json)::uuid)`
    : sql`null::uuid[]`
  const rows = await rowsOf<{ id: string }>(
    db,
    sql`select id from search.due_organizations(${spaceId}, ${among}, ${after ?? null}::uuid, ${limit}) as id`,
  )
  return rows.map(({ id }) => id)
}

export interface EnqueueOptions {
  spaceId: string
  organizationIds?: readonly string[] | undefined
  signal?: AbortSignal | undefined
}

/** Adds a job for each chunk without a current vector in a space, batch by batch. Returns how many. */
export async function enqueueMissing(
  db: Database,
  { spaceId, organizationIds, signal }: EnqueueOptions,
): Promise<number> {
  let enqueued = 0
  for (const organization of organizationIds ?? [null]) {
    let cursor: { organization: string | null; chunk: string | null } | undefined
    for (;;) {
      signal?.throwIfAborted()
      const batch: Batch = only(
        await rowsOf<Batch>(
          db,
          sql`select scanned, enqueued, last_organization as organization, last_chunk as chunk
            from search.enqueue_missing(${spaceId}, ${organization}::uuid,
              ${cursor?.organization ?? null}::uuid, ${cursor?.chunk ?? null}::uuid, ${ENQUEUE_BATCH})`,
        ),
      )
      enqueued += batch.enqueued
      if (batch.scanned < ENQUEUE_BATCH) break
      cursor = batch
    }
  }
  return enqueued
}

interface Batch {
  scanned: number
  enqueued: number
  organization: string | null
  chunk: string | null
}
