import { connect, type Socket } from 'node:net'
import postgres, {
  type Notice,
  type PendingQuery,
  type PostgresError,
  type Row,
  type RowList,
  type Sql,
  type TransactionSql,
} from 'postgres'
import { ConnectionError, TimeoutError, TransactionError, ValidationError } from './errors.ts'

export interface PoolOptions {
  /** Connections held open at most. */
  maxConnections?: number
  /** Time to open a connection, in milliseconds. */
  connectTimeoutMs?: number
  /** Time to wait for a free connection, in milliseconds. */
  acquireTimeoutMs?: number
  /** Time that the server gives one statement, in milliseconds. */
  statementTimeoutMs?: number
  /** Time that the server lets a transaction wait for its next statement, in milliseconds. */
  idleInTransactionTimeoutMs?: number
  /** Time after which a connection that nobody used is closed, in milliseconds. */
  idleTimeoutMs?: number
  /**
   * False behind a pooler in transaction mode: no named statements, and no startup parameters that it refuses.
   * The server's two timeouts then hold in transactions only, and a query with parameters takes two round trips.
   */
  prepare?: boolean
  onNotice?: (notice: Notice) => void
}

export interface ClosePoolOptions {
  /** Time for the work under way, in milliseconds; after it the connections are cut. */
  timeoutMs?: number
}

export interface Pool {
  /** For `drizzle({ client })`. */
  readonly client: Sql
  /** Refuses new work, waits for what is under way, and closes every connection. Twice is once. */
  close(options?: ClosePoolOptions): Promise<void>
}

type Settings = Sql['options']
type Send = (text: string, parameters?: never[], options?: object) => Query
type Work<T> = (transaction: TransactionSql) => Promise<T>

/** A query as postgres.js 3.4.9 sees it: `executed` keeps its own queue away, and it settles by these two methods. */
interface Query extends PendingQuery<Row[]> {
  executed: boolean
  prepared: boolean
  reserve: boolean
  retriable?: boolean
  resolve(rows: RowList<Row[]>): void
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
interface Slot {
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

interface Waiter {
  resolve(slot: Slot): void
  reject(error: unknown): void
  timer: NodeJS.Timeout
}

const START = /^\s*(begin|start\s+transaction)\b/i
const END = /^\s*(commit|end|rollback|abort)(\s+(work|transaction))?\s*;?\s*$/i
/** Where the server finds that a prepared statement does not hold any more. */
const STALE = /^(FetchPreparedStatement|RevalidateCachedQuery|transformAssignedExpr)$/
const ARRAY_TYPES =
  'select oid, typarray, typdelim from pg_catalog.pg_type where typarray <> 0 order by oid'

/** Time for the server to take its leave, in milliseconds, before the socket is closed from here. */
const GOODBYE_MS = 1_000

const noop = () => {}
const made = new WeakSet<object>()

/** Drizzle asks for the whole client of postgres.js, and uses the members that are given here. */
function asClient<C extends Sql | TransactionSql>(members: object): C {
  made.add(members)
  return members as C
}

/** Whether a client was made here: a `commit` that the work sends through it ends its transaction. */
export const commitsEarly = (client: unknown): boolean =>
  typeof client === 'object' && client !== null && made.has(client)

/**
 * Opens a pool for `drizzle({ client })` which takes the fewest round trips: one for a query that was prepared before,
 * and none for BEGIN, which goes out with the first queries of its transaction. Queries are sent when they are called,
 * in that order. A connection serves one query or one transaction at a time; once lost, it serves no other. The first
 * is opened when it is needed.
 *
 * @throws ValidationError when the url is none, or names several hosts.
 * @throws ConnectionError from every call, when the server refuses or the connection is lost. `committed` is 'unknown'
 * when a COMMIT, or a query outside a transaction, was sent and not answered.
 * @throws TimeoutError from every call, when no connection opens or becomes free in time.
 * @throws TransactionError from a transaction that goes on after its end, or that caught the failure of a query.
 */
export function openPool(
  url: string,
  {
    maxConnections = 10,
    connectTimeoutMs = 10_000,
    acquireTimeoutMs = 10_000,
    statementTimeoutMs = 30_000,
    idleInTransactionTimeoutMs = 60_000,
    idleTimeoutMs = 60_000,
    prepare = true,
    onNotice = noop,
  }: PoolOptions = {},
): Pool {
  const timeouts = {
    statement_timeout: statementTimeoutMs,
    idle_in_transaction_session_timeout: idleInTransactionTimeoutMs,
  }
  const limits = prepare ? [] : Object.entries(timeouts).map(([k, v]) => `; set local ${k} = ${v}`)
  const begin = `begin${limits.join('')}`

  // Never connected: it makes the queries, and holds the parsers that Drizzle replaces in `options`.
  const root = readUrl(url, {
    max: 1,
    prepare,
    // Its failure would be a rejection that nobody can catch.
    fetch_types: false,
    max_lifetime: null,
    idle_timeout: 0,
    connect_timeout: 0,
    onnotice: onNotice,
    connection: { application_name: 'plinth', ...(prepare ? timeouts : {}) },
  })

  const slots = new Set<Slot>()
  const idle: Slot[] = []
  const waiting: Waiter[] = []
  let opening = 0
  let refusal: unknown
  let closing: Promise<void> | undefined
  let onEmpty = noop

  function acquire(): Promise<Slot> {
    if (closing) return Promise.reject(new ConnectionError('the pool is closed'))
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        remove(waiting, waiter)
        const problem = `no connection became free in ${acquireTimeoutMs} ms; ${slots.size} are in use`
        reject(new TimeoutError('connection', problem, { cause: refusal }))
      }, acquireTimeoutMs)
      const waiter = { resolve, reject, timer }
      waiting.push(waiter)
      grow()
    })
  }

  function nextWaiter(): Waiter | undefined {
    const waiter = waiting.shift()
    clearTimeout(waiter?.timer)
    return waiter
  }

  function release(slot: Slot) {
    if (slot.lost) return
    if (closing || slot.stale) return slot.end()
    const waiter = nextWaiter()
    if (waiter) return waiter.resolve(slot)
    idle.push(slot)
    slot.timer ??= setTimeout(() => remove(idle, slot) && slot.end(), idleTimeoutMs).unref()
    slot.timer.refresh()
  }

  function grow() {
    while (opening < waiting.length && slots.size < maxConnections) open()
  }

  function open() {
    const slot = openSlot(root.options, connectTimeoutMs, () => forget(slot) && grow())
    slots.add(slot)
    opening += 1
    const opened = slot.ready.finally(() => {
      opening -= 1
    })
    opened.then(
      () => release(slot),
      (error) => {
        refusal = error
        forget(slot)
        // As long as others are open, those who wait may still be served by them.
        if (slots.size > opening) return
        nextWaiter()?.reject(error)
        grow()
      },
    )
  }

  function forget(slot: Slot): boolean {
    remove(idle, slot)
    const known = slots.delete(slot)
    if (slots.size === 0) onEmpty()
    return known
  }

  const make: Send = (text, parameters, options) => {
    const query = root.unsafe(text, parameters, { ...options, prepare }) as Query
    query.executed = true
    // Spares the error a copy of the parameters, and postgres.js an entry in a cache that only grows.
    query.reserve = true
    // Whoever awaits it hears of a failure; a query that nobody awaits must not end the process.
    query.catch(noop)
    return query
  }

  const send: Send = (text, parameters, options) => {
    // Whoever leased the connection next would find himself in it.
    if (START.test(text)) throw new TransactionError('open a transaction by `begin` of the client')
    const query = make(text, parameters, options)
    const lease = (slot: Slot) => {
      slot.committing = true
      slot.run(query, () => release(slot))
    }
    const slot = idle.pop()
    if (slot) lease(slot)
    else acquire().then(lease, query.reject)
    return query
  }

  async function transaction<T>(work: Work<T>): Promise<T> {
    const slot = idle.pop() ?? (await acquire())
    slot.committing = false
    let last: Query | undefined
    let savepoints = 0

    const send: Send = (text, parameters, options) => {
      // It would run outside the transaction: without its role, and without its scope.
      if (last) throw new TransactionError('the transaction has ended: no query can follow in it')
      const query = make(text, parameters, options)
      if (END.test(text)) {
        last = query
        slot.committing = true
      }
      slot.run(query)
      return query
    }

    async function savepoint<R>(work: Work<R>): Promise<R> {
      savepoints += 1
      const name = `s${savepoints}`
      send(`savepoint ${name}`)
      let result: R
      try {
        result = await work(client)
      } catch (error) {
        if (!last) await send(`rollback to ${name}; release ${name}`).catch(noop)
        throw error
      }
      await send(`release ${name}`)
      return result
    }

    const client = asClient<TransactionSql>({ unsafe: send, savepoint, options: root.options })

    try {
      // Without it the queries behind it are no transaction.
      send(begin).catch(slot.lose)
      const result = await work(client)
      const { command } = await (last ?? send('commit'))
      if (command === 'COMMIT') return result
      throw new TransactionError('rolled back: a query failed and its error was caught')
    } catch (error) {
      await (last ?? send('rollback')).catch(noop)
      throw error
    } finally {
      release(slot)
    }
  }

  async function empty(timeoutMs: number) {
    while (waiting.length > 0) nextWaiter()?.reject(new ConnectionError('the pool is closed'))
    for (const slot of idle.splice(0)) slot.end()
    if (slots.size === 0) return
    const cut = setTimeout(() => {
      for (const slot of slots) slot.lose(new Error(`not finished ${timeoutMs} ms after close`))
    }, timeoutMs)
    await new Promise<void>((resolve) => {
      onEmpty = resolve
    })
    clearTimeout(cut)
  }

  return {
    client: asClient<Sql>({ unsafe: send, begin: transaction, options: root.options }),
    close: ({ timeoutMs = 5_000 } = {}) => {
      closing ??= empty(timeoutMs)
      return closing
    },
  }
}

function remove<T>(items: T[], item: T): boolean {
  const index = items.indexOf(item)
  if (index >= 0) items.splice(index, 1)
  return index >= 0
}

function readUrl(url: string, options: object): Sql {
  try {
    const client = postgres(url, options)
    if (client.options.host.length === 1) return client
  } catch {
    // What was thrown holds the url, and so the password.
  }
  throw new ValidationError(
    'url',
    'must be postgres://user:password@host:port/database, with one host',
  )
}

/**
 * Postgres.js opens a lost connection again and goes on with what it has queued, outside the transaction, and with the
 * half of a result that came before the loss. Hence one socket for each of its clients, and no query in its queues.
 */
function openSlot(settings: Settings, connectTimeoutMs: number, onClose: () => void): Slot {
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
      if (isServerError(error) && STALE.test(error.routine)) slot.stale = true
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
      socket = path ? connect(path) : connect(port as number, host)
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

const isServerError = (error: unknown): error is PostgresError =>
  error instanceof postgres.PostgresError

/** Whether an error is the end of the connection, and not the server's word on one statement. */
const isLoss = (error: unknown): boolean =>
  isServerError(error)
    ? error.severity !== 'ERROR'
    : error instanceof Error && ('errno' in error || /^ERR_(SSL|TLS)/.test(codeOf(error)))

const codeOf = (error: object): string => ('code' in error ? String(error.code) : '')

type Codec = (value: unknown) => unknown

/** As postgres.js learns it with `fetch_types`, whose failure is a rejection that nobody can catch. */
function learnArray(settings: Settings, element: number, array: number, delimiter: string) {
  const parsers = settings.parsers as Record<number, Codec>
  const serializers = settings.serializers as Record<number, Codec>
  parsers[array] ??= (text) => parseArray(String(text), delimiter, parsers[element] ?? String)
  serializers[array] ??= (value) =>
    Array.isArray(value) ? writeArray(value, delimiter, serializers[element] ?? String) : value
}

function parseArray(text: string, delimiter: string, parse: Codec): unknown {
  const tokens = new RegExp(`[{}]|"((?:[^"\\\\]|\\\\.)*)"|([^{}"${delimiter}]+)`, 'gs')
  const open: unknown[][] = [[]]
  for (const [token, quoted, bare] of text.matchAll(tokens)) {
    if (token === '}') open.pop()
    else if (token === '{') {
      const inner: unknown[] = []
      open.at(-1)?.push(inner)
      open.push(inner)
    } else if (bare === 'NULL') open.at(-1)?.push(null)
    else open.at(-1)?.push(parse(bare ?? quoted?.replace(/\\(.)/gs, '$1')))
  }
  // Bounds, as in [0:1]={1,2}, come before the array.
  return open[0]?.at(-1)
}

const writeArray = (items: unknown[], delimiter: string, write: Codec): string =>
  `{${items
    .map((item) => {
      if (item === null || item === undefined) return 'null'
      if (Array.isArray(item)) return writeArray(item, delimiter, write)
      return `"${String(write(item)).replace(/["\\]/g, '\\$&')}"`
    })
    .join(delimiter)}}`
