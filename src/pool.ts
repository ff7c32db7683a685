import type { Notice, Sql, TransactionSql } from 'postgres'
import { ConnectionError, TimeoutError, TransactionError } from './errors.ts'
import { openSlot, type Query, readUrl, type Slot } from './pipelined.ts'

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

export interface Pool {
  /** For `drizzle({ client })`. */
  readonly client: Sql
  /** Lends one connection, as a client of its own, and ends it afterwards with all that was set on it. */
  session<T>(work: (client: Sql) => Promise<T>): Promise<T>
  /** Refuses new work, and closes when what is under way has ended, at the latest after `timeoutMs` (5,000). */
  close(options?: { timeoutMs?: number }): Promise<void>
}

type Waiter = { resolve(slot: Slot): void; reject(error: Error): void; timer: NodeJS.Timeout }
type Send = (text: string, parameters?: never[], options?: object) => Query
type Work<T> = (transaction: TransactionSql) => Promise<T>

const END = /^\s*(commit|end|rollback|abort)(\s+(work|transaction))?\s*;?\s*$/i

/** Which leaves the transaction open, and is answered like its end. */
const BACK = /^\s*rollback\s+((work|transaction)\s+)?to\b/i

const noop = () => {}

/**
 * Gives a connection up that has answered a query with a command it must not have: by the answer, since
 * a comment or a further word hides the command in the text.
 */
function refuse(slot: Slot, query: Query, commands: RegExp) {
  const { resolve, reject } = query
  query.resolve = (rows) => {
    // Several statements in one text are answered with several results.
    const answers = [rows, ...rows.filter((row) => Array.isArray(row) && 'command' in row)]
    const found = answers.find(
      (answer) => 'command' in answer && commands.test(String(answer.command)),
    )
    if (!found) return resolve(rows)
    const error = new TransactionError(`${found.command} is for the pool to send`)
    slot.lose(error)
    reject(error)
  }
}

/** Drizzle asks for the whole client of postgres.js, and uses the members that are given here. */
const asClient = <C extends Sql | TransactionSql>(members: object): C => members as C

/**
 * Opens a pool for `drizzle({ client })` which takes the fewest round trips: one for a query that was prepared before,
 * and none for BEGIN, which goes out with the first queries of its transaction. Queries are sent when they are called,
 * in that order. A `commit` that the work of a transaction sends itself is its end. A connection serves one query or one transaction at a time; once lost, it serves no other. The first
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
    // Dates are read as ISO 8601, whatever the database or the role says. Poolers know this parameter.
    connection: { application_name: 'plinth', DateStyle: 'ISO', ...(prepare ? timeouts : {}) },
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

  function nextWaiter() {
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
    slot.ready.then(
      () => {
        opening -= 1
        refusal = undefined
        release(slot)
      },
      (error) => {
        opening -= 1
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
    const query = make(text, parameters, options)
    const lease = (slot: Slot) => {
      slot.committing = true
      // Whoever leased the connection next would find himself in it.
      refuse(slot, query, /^(BEGIN|START TRANSACTION)$/)
      slot.run(query, () => release(slot))
    }
    const slot = idle.pop()
    if (slot) lease(slot)
    else acquire().then(lease, query.reject)
    return query
  }

  async function session<T>(work: (client: Sql) => Promise<T>): Promise<T> {
    const slot = idle.pop() ?? (await acquire())
    const send: Send = (text, parameters, options) => {
      const query = make(text, parameters, options)
      slot.committing = true
      slot.run(query)
      return query
    }
    const begin = <R>(work: Work<R>) => transaction(work, slot)
    try {
      return await work(asClient<Sql>({ unsafe: send, begin, options: root.options }))
    } finally {
      if (!slot.lost) slot.end()
    }
  }

  async function transaction<T>(work: Work<T>, own?: Slot): Promise<T> {
    const slot = own ?? idle.pop() ?? (await acquire())
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
      } else if (!BACK.test(text)) {
        // What follows would run outside the transaction.
        refuse(slot, query, /^(COMMIT|ROLLBACK|PREPARE TRANSACTION)$/)
      }
      slot.run(query)
      return query
    }

    async function savepoint<R>(work: Work<R>): Promise<R> {
      savepoints += 1
      const name = `s${savepoints}`
      send(`savepoint ${name}`)
      const undo = async (error: unknown) => {
        if (!last) await send(`rollback to ${name}; release ${name}`).catch(noop)
        throw error
      }
      const result = await (async () => work(client))().catch(undo)
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
      if (!own) release(slot)
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
    client: asClient<Sql>({
      unsafe: send,
      begin: (work: Work<unknown>) => transaction(work),
      options: root.options,
    }),
    session,
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
