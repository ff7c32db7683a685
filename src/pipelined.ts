import { connect, type Socket } from 'node:net'
import postgres, { type Sql } from 'postgres'
import { type Codec, parseArray, writeArray } from './arrays.ts'
import { ConnectionError, TimeoutError, ValidationError } from './errors.ts'

type Settings = Sql['options']

/** A query as postgres.js 3.4.9 sees it: `executed` keeps its own queue away, and it settles by these two methods. */
export interface Query extends postgres.PendingQuery<postgres.Row[]> {
  executed: boolean
  prepared: boolean
  reserve: boolean
  retriable?: boolean
  resolve(rows: postgres.RowList<postgres.Row[]>): void
  reject(error: unknown): void
}

/** A connection as postgres.js 3.4.9 shows it to `onexecute`. */
interface Connection {
  /** False when nothing may be sent until all is answered: a statement is being described, or the socket is full. */
  execute(query: Query): boolean
  terminate(): void
  /** Called when all is answered, as long as `release` is true. */
  reserved: (() => void) & { release: boolean }
}

/** One connection, never opened a second time. */
export interface Slot {
  /** Resolves when the server has answered a first statement. */
  readonly ready: Promise<void>
  /** Ends the slot if it stays unused. */
  timer?: NodeJS.Timeout
  /** Set as soon as nothing may be sent any more. */
  lost?: ConnectionError
  /** Whether what is on its way may commit. */
  committing: boolean
  /** Whether it holds a prepared statement that fails, so that no other may have it. */
  stale: boolean
  /** Sends a query of a transaction; with `onSettled`, one that is alone on its connection. */
  run(query: Query, onSettled?: () => void): void
  lose(cause?: unknown): void
  end(): void
}

/** Where the server finds that a prepared statement does not hold any more. */
const STALE = /^(FetchPreparedStatement|RevalidateCachedQuery|transformAssignedExpr)$/
const ARRAY_TYPES =
  'select oid, typarray, typdelim from pg_catalog.pg_type where typarray <> 0 order by oid'

/** Time for the server to take its leave, in milliseconds, before the socket is closed from here. */
const GOODBYE_MS = 1_000

/** A client of one connection, with the settings of another one of postgres.js. */
export const openAnother = ({ options }: Sql): Sql =>
  // It takes settings that it has read itself as they are.
  postgres({ ...options, max: 1 } as unknown as postgres.Options<Record<string, never>>)

/** A client that is never connected: it makes the queries, and holds the parsers that Drizzle replaces. */
export function readUrl(url: string, options: object): Sql {
  try {
    const client = postgres(url, options)
    if (client.options.host.length === 1) return client
  } catch {
    // What was thrown holds the url, and so the password.
  }
  throw new ValidationError('url', 'must be postgres://user:password@host:port/database')
}

/**
 * Postgres.js opens a lost connection again and goes on with what it has queued, outside the transaction, and with the
 * half of a result that came before the loss. Hence one socket for each of its clients, and no query in its queues.
 */
export function openSlot(settings: Settings, connectTimeoutMs: number, onClose: () => void): Slot {
  const [host, port, path] = [settings.host[0], settings.port[0], settings.path || undefined]
  const server = path ?? `${host}:${port}`
  const outstanding = new Map<Query, (error: unknown) => void>()
  const queue: Query[] = []
  let full = false
  let executing: Query | undefined
  let connection: Connection
  let socket: Socket | undefined

  function run(query: Query, onSettled?: () => void) {
    if (slot.lost) return query.reject(slot.lost)
    const { resolve, reject } = query
    outstanding.set(query, reject)
    query.resolve = (rows) => {
      if (!outstanding.delete(query)) return
      resolve(rows)
      onSettled?.()
    }
    query.reject = (error) => {
      // A query that cannot be written is blamed on the one that is being answered, and leaves the replies one short.
      if (isLoss(error) || (executing && executing !== query)) return lose(error)
      if (!outstanding.delete(query)) return
      slot.stale ||= error instanceof postgres.PostgresError && STALE.test(error.routine)
      reject(error)
      onSettled?.()
    }
    query.retriable = onSettled !== undefined
    if (full) queue.push(query)
    else execute(query)
  }

  function execute(query: Query) {
    executing = query
    if (!connection.execute(query)) full = true
    // Postgres.js would prepare it anew and run it again, behind the end of the transaction that it made fail.
    if (!query.retriable) query.prepared = false
    executing = undefined
  }

  function drain() {
    full = false
    while (queue.length > 0 && !full && !slot.lost) execute(queue.shift() as Query)
  }

  function lose(cause?: unknown) {
    if (slot.lost) return
    const committed = slot.committing ? 'unknown' : 'no'
    const lost = new ConnectionError(`the connection to ${server} was lost`, { cause, committed })
    slot.lost = lost
    for (const [query, reject] of outstanding) reject(query === executing ? cause : lost)
    outstanding.clear()
    socket?.destroy()
  }

  function end() {
    slot.lost ??= new ConnectionError('the pool is closed')
    connection.terminate()
    setTimeout(() => socket?.destroy(), GOODBYE_MS).unref()
  }

  const client = postgres({
    ...settings,
    target_session_attrs: undefined,
    socket: () => {
      if (socket || slot.lost) throw new Error('the server closed the connection')
      // A statement behind others that are not answered yet must not wait for their acknowledgement.
      socket = (path ? connect(path) : connect(port as number, host)).setNoDelay()
      // Where postgres.js looks for the name that a certificate must carry.
      return Object.assign(socket, { host })
    },
    onclose: () => {
      lose()
      onClose()
    },
  } as object)

  const onexecute = (shown: Connection) => {
    connection = shown
    connection.reserved = Object.assign(drain, { release: true })
    return true
  }

  async function prove() {
    const late = setTimeout(() => {
      lose(new TimeoutError('connection', `${server} did not answer in ${connectTimeoutMs} ms`))
    }, connectTimeoutMs)
    try {
      const types = await client.unsafe(ARRAY_TYPES, [], { onexecute } as object)
      for (const { oid, typarray, typdelim } of types) learnArray(settings, oid, typarray, typdelim)
    } catch (error) {
      lose(error)
      const cause = slot.lost?.cause ?? error
      if (cause instanceof TimeoutError) throw cause
      const reason = cause instanceof Error && (cause.message || codeOf(cause))
      throw new ConnectionError(`cannot connect to ${server}: ${reason}`, { cause })
    } finally {
      clearTimeout(late)
    }
  }

  const slot: Slot = { committing: false, stale: false, ready: prove(), run, lose, end }
  return slot
}

/** Whether an error is the end of the connection, and not the server's word on one statement. */
const isLoss = (error: unknown): boolean =>
  error instanceof Error && ('errno' in error || /^ERR_(SSL|TLS)/.test(codeOf(error)))

const codeOf = (error: object): string => ('code' in error ? String(error.code) : '')

/** As postgres.js learns it with `fetch_types`, whose failure is a rejection that nobody can catch. */
function learnArray(settings: Settings, element: number, array: number, delimiter: string) {
  const parsers = settings.parsers as Record<number, Codec>
  const serializers = settings.serializers as Record<number, Codec>
  parsers[array] ??= (text) => parseArray(String(text), delimiter, parsers[element] ?? String)
  serializers[array] ??= (value) =>
    Array.isArray(value) ? writeArray(value, delimiter, serializers[element] ?? String) : value
}
