import { sql } from 'drizzle-orm'
import { rowsOf } from '../database.ts'
import { ValidationError } from '../errors.ts'
import { activityLogs, activitySeals, sealedRows } from '../schema/activity.ts'
import { sealHash } from '../schema/seals.ts'
import { type Tenancy, type Tenant, withTenant } from '../tenant.ts'
import { checkInstant, checkInteger, checkLimit } from '../validation.ts'
import { type ActivityHead, checkAdmin, findHead } from './seals.ts'

/** Of how many seals the lines are compared in one statement. */
const VERIFIED_SEALS = 20

/** Problems of a report. */
const MAX_PROBLEMS = 1_000

/** A day: how late a line may come, unless said. */
const LATE_MS = 86_400_000

/**
 * `edited`: the line is another one than was sealed. `deleted`: it is gone. `inserted`: it has come when what was in
 * the log at its time had long been sealed, or among the digests of a seal that does not count it. `truncated`:
 * seals are missing at an end of the chain. `chain`: a seal is not what was made, or not of these digests.
 */
export type ActivityProblemKind = 'edited' | 'deleted' | 'inserted' | 'truncated' | 'chain'

export interface ActivityProblem {
  kind: ActivityProblemKind
  /** Of the line; undefined where it is about a seal. */
  occurredAt: Date | undefined
  id: string | undefined
  /** The sequence of the seal; undefined for a line that is in none. */
  seal: number | undefined
}

export interface VerifiedActivity {
  ok: boolean
  /** Seals that were looked at, and the lines that they count. */
  seals: number
  sealedRows: number
  /** Lines that are not sealed yet. */
  unsealedRows: number
  /** The first ones; by seal, and within it in the order of the lines. */
  problems: ActivityProblem[]
  /** To be kept elsewhere, for the next `expectedHead`. Undefined without a seal. */
  head: ActivityHead | undefined
}

export interface VerifyActivityOptions {
  /** The earliest time of a line that still has to be there; for logs whose oldest months were removed. */
  since?: Date
  /** A seal that was verified before: those up to it are not looked at. */
  checkpoint?: ActivityHead
  /** A seal that was seen before: it has to be in the chain, also where it is none of those that are looked at. */
  expectedHead?: ActivityHead
  /** How late lines may honestly be recorded, in milliseconds; a day unless said. */
  lateMs?: number
  /** Of problems, up to 1,000; 100 unless said. */
  limit?: number
  /** Ends it between two batches. */
  signal?: AbortSignal
}

/**
 * Compares the activity log with its seals, and the seals with each other. Reads all of it, in batches.
 *
 * Whoever may rewrite the whole database may rewrite the chain too, with all its hashes: that is found by an
 * `expectedHead` alone, which was kept elsewhere.
 *
 * @throws {ForbiddenError} unless the scope is an admin's or a service's.
 * @throws {ValidationError} also for an `expectedHead` before the `checkpoint` whose seal was deleted.
 * @throws the signal's reason.
 */
export async function verifyActivity(
  tenancy: Tenancy,
  { lateMs = LATE_MS, limit = 100, ...options }: VerifyActivityOptions = {},
): Promise<VerifiedActivity> {
  const { since, checkpoint, expectedHead, signal } = options
  if (since !== undefined) checkInstant('since', since)
  if (checkpoint !== undefined) checkHead('checkpoint', checkpoint)
  if (expectedHead !== undefined) checkHead('expectedHead', expectedHead)
  checkInteger('lateMs', lateMs, { max: 1e12 })
  checkLimit(limit, MAX_PROBLEMS)

  const report: VerifiedActivity = {
    ...{ ok: true, seals: 0, sealedRows: 0, unsealedRows: 0, problems: [], head: checkpoint },
  }
  const note = (problems: readonly ActivityProblem[]) => {
    if (problems.length > 0) report.ok = false
    report.problems.push(...problems.slice(0, limit - report.problems.length))
  }
  const ofSeal = (kind: ActivityProblemKind, seal: number): ActivityProblem => ({
    ...{ kind, seal, occurredAt: undefined, id: undefined },
  })
  if (expectedHead !== undefined && checkpoint && expectedHead.sequence <= checkpoint.sequence) {
    const seal = await withTenant(tenancy, (tenant) => sealAt(tenant, expectedHead, checkpoint))
    if (isOther(seal, expectedHead)) note([ofSeal('chain', seal.sequence)])
  }
  let completeAt: number | null = null
  for (;;) {
    signal?.throwIfAborted()
    const after = report.head?.sequence ?? 0
    const { seals, problems } = await withTenant(tenancy, async (tenant) => {
      await checkAdmin(tenant)
      const seals = await readSeals(tenant, after)
      const last = seals.at(-1)?.sequence ?? after
      const range = { after, last, since, completeAt, lateMs, limit }
      return { seals, problems: await compareRows(tenant, range) }
    })
    for (const seal of seals) {
      const { head } = report
      const isNext = seal.sequence === (head?.sequence ?? 0) + 1
      const isFirst = report.seals === 0 && !isNext
      if (isFirst) note([ofSeal('truncated', seal.sequence - 1)])
      else if (!isNext || (head && seal.previousHash !== head.hash) || !seal.isWhole) {
        note([ofSeal('chain', seal.sequence)])
      } else if (isOther(seal, expectedHead)) note([ofSeal('chain', seal.sequence)])
      note(problems.filter((problem) => problem.seal === seal.sequence))
      report.head = { sequence: seal.sequence, hash: seal.hash }
      report.seals += 1
      report.sealedRows += seal.rowCount
      completeAt = seal.completeAt ?? completeAt
    }
    if (seals.length < VERIFIED_SEALS) break
  }
  const end = report.head?.sequence ?? 0
  const rest = await withTenant(tenancy, (tenant) =>
    compareRest(tenant, { end, since, completeAt, lateMs, limit }),
  )
  const isGone =
    checkpoint !== undefined && report.seals === 0 && rest.head?.hash !== checkpoint.hash
  if (rest.hasOrphans || isGone || (expectedHead && expectedHead.sequence > end)) {
    note([ofSeal('truncated', isGone ? end : end + 1)])
  }
  note(rest.inserted)
  return { ...report, unsealedRows: rest.unsealedRows }
}

function checkHead(argument: string, head: ActivityHead): void {
  checkInteger(`${argument}.sequence`, head?.sequence, { min: 1 })
  if (typeof head.hash !== 'string' || !/^[0-9a-f]{64}$/.test(head.hash)) {
    throw new ValidationError(`${argument}.hash`, 'must be 64 hexadecimal digits')
  }
}

const isOther = (seal: ActivityHead, expected: ActivityHead | undefined) =>
  expected !== undefined && expected.sequence === seal.sequence && expected.hash !== seal.hash

/** The seal at the place of an expected one, at the checkpoint or before it. */
async function sealAt(tenant: Tenant, { sequence }: ActivityHead, checkpoint: ActivityHead) {
  await checkAdmin(tenant)
  if (sequence === checkpoint.sequence) return checkpoint
  const { db, organizationId } = tenant
  const [seal] = await rowsOf<{ hash: string }>(
    db,
    sql`select encode(s.hash, 'hex') as hash from ${activitySeals} s
      where s.organization_id = ${organizationId} and s.sequence = ${sequence}`,
  )
  if (seal) return { sequence, hash: seal.hash }
  const problem = 'is before checkpoint, where its seal is not any more; expect a later one'
  throw new ValidationError('expectedHead', problem)
}

interface ReadSeal extends ActivityHead {
  previousHash: string | null
  rowCount: number
  completeAt: number | null
  /** Its hash is that of its columns, and its digests are those that it was made of. */
  isWhole: boolean
}

async function readSeals({ db, organizationId }: Tenant, after: number): Promise<ReadSeal[]> {
  const rows = await rowsOf<Omit<ReadSeal, 'sequence'> & { sequence: string }>(
    db,
    sql`
      select s.sequence::text, encode(s.hash, 'hex') as hash, encode(s.previous_hash, 'hex') as "previousHash",
        s.row_count as "rowCount", ${epochMs('s.complete_at')} as "completeAt",
        s.hash = ${sealHash('s')} and e.row_count = s.row_count and e.rows_hash = s.rows_hash as "isWhole"
      from ${activitySeals} s
      cross join lateral (
        select count(*) as row_count, coalesce(sha256(string_agg(r.digest, ''::bytea order by r.position)), '') as rows_hash
        from ${sealedRows} r where r.organization_id = ${organizationId} and r.sequence = s.sequence
      ) e
      where s.organization_id = ${organizationId} and s.sequence > ${after}
      order by s.sequence limit ${VERIFIED_SEALS}`,
  )
  return rows.map((row) => ({ ...row, sequence: Number(row.sequence) }))
}

interface RestOptions {
  since: Date | undefined
  /** What was in the log by then was sealed before. */
  completeAt: number | null
  lateMs: number
  limit: number
}

type RawProblem = { kind: ActivityProblemKind; at: number; id: string; seal: string | null }

const toProblem = ({ kind, at, id, seal }: RawProblem): ActivityProblem => ({
  ...{ kind, id, occurredAt: new Date(at), seal: seal === null ? undefined : Number(seal) },
})

const instant = (at: number | null) => (at === null ? null : new Date(at).toISOString())
const late = (ms: number) => sql`make_interval(secs => ${ms}::float8 / 1000)`
const epochMs = (instant: string) => sql.raw(`(extract(epoch from ${instant}) * 1000)::float8`)

/** What is wrong with the lines of a few seals. */
async function compareRows(
  { db, organizationId }: Tenant,
  { after, last, since, completeAt, lateMs, limit }: RestOptions & { after: number; last: number },
): Promise<ActivityProblem[]> {
  const rows = await rowsOf<RawProblem>(
    db,
    sql`
      with batch as materialized (
        -- greatest() passes over null.
        select s.sequence, s.row_count, greatest(${instant(completeAt)}::timestamptz,
          max(s.complete_at) over (order by s.sequence rows between unbounded preceding and 1 preceding)) as known_at
        from ${activitySeals} s
        where s.organization_id = ${organizationId} and s.sequence > ${after} and s.sequence <= ${last}
      )
      select case when l.id is null then 'deleted'
          when activity.row_digest(l) <> r.digest then 'edited' else 'inserted' end as kind,
        ${epochMs('r.occurred_at')} as at, r.row_id as id, r.sequence::text as seal
      from batch b
      join ${sealedRows} r on r.organization_id = ${organizationId} and r.sequence = b.sequence
      left join ${activityLogs} l on l.organization_id = ${organizationId}
        and l.occurred_at = r.occurred_at and l.id = r.row_id
      where r.occurred_at >= ${since?.toISOString() ?? '-infinity'}
        and (l.id is null or activity.row_digest(l) <> r.digest or r.position > b.row_count
          or r.occurred_at < b.known_at - ${late(lateMs)})
      order by r.sequence, r.position limit ${limit}`,
  )
  return rows.map(toProblem)
}

/** What is in no seal: digests whose seal is gone, and lines, those among them that have come too late. */
async function compareRest(
  tenant: Tenant,
  { end, since, completeAt, lateMs, limit }: RestOptions & { end: number },
) {
  const { db, organizationId } = tenant
  const rows = await rowsOf<RawProblem & { unsealed: string; orphans: boolean }>(
    db,
    sql`
      with unsealed as materialized (
        select l.occurred_at, l.id from ${activityLogs} l
        where l.organization_id = ${organizationId} and l.occurred_at >= ${since?.toISOString() ?? '-infinity'}
          and not exists (select from ${sealedRows} r where r.organization_id = ${organizationId}
            and r.occurred_at = l.occurred_at and r.row_id = l.id)
      ), inserted as (
        select u.occurred_at, u.id from unsealed u
        where u.occurred_at < ${instant(completeAt)}::timestamptz - ${late(lateMs)}
        order by u.occurred_at, u.id limit ${limit}
      )
      select (select count(*) from unsealed)::text as unsealed,
        exists (select from ${sealedRows} r where r.organization_id = ${organizationId} and r.sequence > ${end}
          and not exists (select from ${activitySeals} s
            where s.organization_id = ${organizationId} and s.sequence = r.sequence)) as orphans,
        'inserted' as kind, ${epochMs('i.occurred_at')} as at, i.id, null as seal
      from (select) as one left join inserted i on true
      order by i.occurred_at, i.id`,
  )
  return {
    unsealedRows: Number(rows[0]?.unsealed),
    head: await findHead(tenant),
    hasOrphans: rows[0]?.orphans === true,
    inserted: rows.filter(({ id }) => id !== null).map(toProblem),
  }
}
