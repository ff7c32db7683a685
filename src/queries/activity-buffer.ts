import { setTimeout as pause } from 'node:timers/promises'
import type { Database } from '../database.ts'
import {
  BufferError,
  ConnectionError,
  LockError,
  MissingPartitionError,
  TimeoutError,
  ValidationError,
} from '../errors.ts'
import { redactText } from '../redaction.ts'
import { uuidV7 } from '../schema/columns.ts'
import { asService } from '../tenant.ts'
import { checkInteger, checkUuid } from '../validation.ts'
import { type ActivityEntry, checkActivity, MAX_ACTIVITIES, recordActivities } from './activity.ts'

/** A line with everything that writes it once, however often it is sent. */
export interface BufferedActivity extends ActivityEntry {
  organizationId: string
  actorId: string | null
  occurredAt: Date
  id: string
}

/** A `Scope` or a `Tenant`, or an organization alone, for what nobody did. */
export interface ActivityScope {
  readonly organizationId: string
  readonly userId?: string | undefined
}

const HOUR_MS = 3_600_000

export interface BufferActivityOptions {
  /** How many lines are written at once, without waiting any longer. */
  maxSize?: number
  /** How long a line waits for others, in milliseconds. */
  maxDelayMs?: number
  /** How many lines are kept at most, those being written among them. */
  maxPending?: number
  /** How long `close` tries to write the rest, in milliseconds. */
  closeTimeoutMs?: number
  /**
   * Is given the lines that could not be written and will not be tried again, of one organization a
   * call. `recordActivities` takes them as they are, and records none twice.
   */
  onError: (error: unknown, entries: readonly BufferedActivity[]) => void
}

export interface ActivityBuffer extends AsyncDisposable {
  /** How many lines are not written yet. */
  readonly pending: number
  /**
   * Takes a line, as it is now, to be written soon. Returns its id at once.
   *
   * The line gets its time here, by this machine's clock: the database's is read when a line is
   * written, so that a lost connection would put it behind lines of later on.
   *
   * The line is written by a service, which may name anyone as the actor: whom, is for the caller to know.
   *
   * @throws {BufferError} if the buffer is full or closed. @throws {ValidationError}
   */
  record(scope: ActivityScope, entry: ActivityEntry): string
  /**
   * Writes what is pending now.
   *
   * @throws {ConnectionError} and {TimeoutError}, {LockError}: the lines are kept, and tried again.
   */
  flush(): Promise<void>
  /** Takes no more lines, and writes the rest or gives it to `onError`. Twice is once. */
  close(): Promise<void>
}

/** When to try again: a tenth of a second later, then twice as long each time, up to half a minute. */
interface Retry {
  failures: number
  at: number
}

interface Lane extends Retry {
  readonly organizationId: string
  readonly lines: Set<BufferedActivity>
}

const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 30_000

/**
 * Collects lines of the log in memory, and writes them in bulk: when there are `maxSize`, after
 * `maxDelayMs`, and when it is closed. For requests that should not wait for their log. A process that
 * is killed takes with it what is pending: a line that must stand or fall with a transaction is for
 * `recordActivity`.
 *
 * One write is under way at a time, so the buffer takes one connection. What a lost connection, a
 * timeout or a lock kept from being written is tried again, and is in the log once even if the answer to
 * a COMMIT was lost. Everything else goes to `onError`, and holds up no other organization; of several
 * months, only the lines of the one without a partition do.
 *
 * @throws {ValidationError} for an option out of range.
 */
export function bufferActivity(
  db: Database,
  {
    maxSize = 100,
    maxDelayMs = 1_000,
    maxPending = 10_000,
    closeTimeoutMs = 5_000,
    onError,
  }: BufferActivityOptions,
): ActivityBuffer {
  checkInteger('maxSize', maxSize, { min: 1, max: MAX_ACTIVITIES })
  checkInteger('maxDelayMs', maxDelayMs, { min: 1, max: HOUR_MS })
  checkInteger('maxPending', maxPending, { min: maxSize, max: 1_000_000 })
  checkInteger('closeTimeoutMs', closeTimeoutMs, { min: 1, max: HOUR_MS })
  if (typeof onError !== 'function') throw new ValidationError('onError', 'must be a function')

  const lanes = new Map<string, Lane>()
  /** Of the connection, which all organizations share. */
  const outage: Retry = { failures: 0, at: 0 }
  let pending = 0
  /** Recorded since the last pass began. */
  let fresh = 0
  let alarm: { at: number; timer: NodeJS.Timeout } | undefined
  let running: Promise<void> | undefined
  let closing: Promise<void> | undefined
  /** From then on, nothing that is still under way counts. */
  let ended = false

  function record({ organizationId, userId }: ActivityScope, entry: ActivityEntry): string {
    if (closing) throw new BufferError('closed', 'the activity buffer is closed')
    checkUuid('organizationId', organizationId)
    if (userId !== undefined) checkUuid('userId', userId)
    // As they are now, and without secrets: what cannot be written is handed to onError.
    const { changes, metadata } = checkActivity('entry', entry)
    if (pending >= maxPending) {
      throw new BufferError('full', `the activity buffer holds ${maxPending} lines; see maxPending`)
    }
    const key = organizationId.toLowerCase()
    const lane = lanes.get(key) ?? { ...ready(), organizationId: key, lines: new Set() }
    lanes.set(key, lane)
    const line = {
      ...entry,
      organizationId: key,
      actorId: entry.actorId === undefined ? (userId ?? null) : entry.actorId,
      resourceName: entry.resourceName && redactText(entry.resourceName),
      changes: changes && JSON.parse(changes),
      metadata: JSON.parse(metadata),
      occurredAt: new Date(entry.occurredAt ?? Date.now()),
      id: entry.id ?? uuidV7(),
    }
    lane.lines.add(line)
    pending += 1
    fresh += 1
    // While a pass runs, its end sees to what has come since.
    if (!running) schedule(Date.now() + maxDelayMs)
    return line.id
  }

  function schedule(at: number) {
    if (fresh >= maxSize && outage.at <= Date.now()) return inBackground()
    const due = Math.max(at, outage.at)
    if (alarm && alarm.at <= due) return
    clearTimeout(alarm?.timer)
    alarm = { at: due, timer: setTimeout(inBackground, due - Date.now()).unref() }
  }

  // Nobody awaits it; what went wrong is tried again, or was given to onError.
  const inBackground = () => void pass({ forced: false }).catch(() => {})

  /** Writes everything that is due; `forced`: also what still had to wait for being tried again. */
  function pass(options: { forced: boolean }): Promise<void> {
    running ??= writeAll(options).finally(() => {
      running = undefined
      if (closing || pending === 0) return
      const next = Date.now() + maxDelayMs
      schedule(Math.min(...[...lanes.values()].map(({ at }) => at || next)))
    })
    return running
  }

  async function writeAll({ forced }: { forced: boolean }): Promise<void> {
    clearTimeout(alarm?.timer)
    alarm = undefined
    fresh = 0
    const failures: unknown[] = []
    for (const lane of [...lanes.values()]) {
      if (ended) return
      if (lane.at > Date.now() && !forced) continue
      try {
        await writeLane(lane)
        Object.assign(lane, ready())
        Object.assign(outage, ready())
      } catch (error) {
        failures.push(error)
        // To the end, so that the others come first the next time.
        lanes.delete(lane.organizationId)
        lanes.set(lane.organizationId, lane)
        postpone(isOutage(error) ? outage : lane)
        if (isOutage(error)) break
      }
      if (lane.lines.size === 0) lanes.delete(lane.organizationId)
    }
    if (failures.length > 0) throw failures[0]
  }

  async function writeLane(lane: Lane): Promise<void> {
    const lines = [...lane.lines]
    for (let from = 0; from < lines.length && !ended; from += MAX_ACTIVITIES) {
      await write(lane, lines.slice(from, from + MAX_ACTIVITIES))
    }
  }

  async function write(lane: Lane, lines: readonly BufferedActivity[]): Promise<void> {
    try {
      await asService(db, lane.organizationId, (tenant) => recordActivities(tenant, lines))
    } catch (error) {
      if (ended || isTransient(error)) throw error
      const parts = divide(lines, error)
      if (parts.length > 1) {
        for (const part of parts) await write(lane, part)
        return
      }
      report(error, lines)
    }
    if (ended) return
    for (const line of lines) lane.lines.delete(line)
    pending -= lines.length
  }

  // Apart, so that what it throws is its owner's uncaught exception and not a failure to write.
  const report = (error: unknown, lines: readonly BufferedActivity[]) =>
    queueMicrotask(() => onError(error, lines))

  async function flush(): Promise<void> {
    while (running) await running.catch(() => {})
    await pass({ forced: true })
  }

  async function end(): Promise<void> {
    clearTimeout(alarm?.timer)
    let failure: unknown
    const writing = async () => {
      while (pending > 0 && !ended) {
        await flush().catch((error) => {
          failure = error
        })
        if (pending > 0) await pause(FIRST_RETRY_MS)
      }
    }
    const written = new AbortController()
    await Promise.race([
      writing().finally(() => written.abort()),
      pause(closeTimeoutMs, undefined, { signal: written.signal }).catch(() => {}),
    ])
    ended = true
    failure ??= new TimeoutError('statement', `not written ${closeTimeoutMs} ms after close`)
    for (const { lines } of lanes.values()) {
      if (lines.size > 0) report(failure, [...lines])
    }
    lanes.clear()
    pending = 0
  }

  function close(): Promise<void> {
    closing ??= end()
    return closing
  }

  return {
    get pending() {
      return pending
    },
    record,
    flush,
    close,
    [Symbol.asyncDispose]: close,
  }
}

const ready = (): Retry => ({ failures: 0, at: 0 })

function postpone(retry: Retry) {
  retry.at = Date.now() + Math.min(FIRST_RETRY_MS * 2 ** retry.failures, LAST_RETRY_MS)
  retry.failures += 1
}

/** Whether no organization's lines can be written. */
const isOutage = (error: unknown) =>
  error instanceof ConnectionError ||
  (error instanceof TimeoutError && error.waitedFor === 'connection')

const isTransient = (error: unknown) =>
  error instanceof ConnectionError || error instanceof TimeoutError || error instanceof LockError

/** The parts of a refused batch that another try may write: the months, or the halves of what was too large. */
function divide(lines: readonly BufferedActivity[], error: unknown): BufferedActivity[][] {
  if (error instanceof ValidationError) {
    const half = Math.ceil(lines.length / 2)
    return [lines.slice(0, half), lines.slice(half)].filter((part) => part.length > 0)
  }
  if (!(error instanceof MissingPartitionError)) return []
  const months = new Map<string, BufferedActivity[]>()
  for (const line of lines) {
    const month = line.occurredAt.toISOString().slice(0, 7)
    const part = months.get(month)
    if (part) part.push(line)
    else months.set(month, [line])
  }
  return [...months.values()]
}
