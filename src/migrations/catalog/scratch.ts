import { randomBytes } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { type Connection, connect, type Database, rowsOf } from '../../database.ts'
import { ForbiddenError, MigrationError, ScratchError } from '../../errors.ts'
import { literal } from '../advice/names.ts'

/** Of the database's own server. Its clock, since it is the server that keeps what a crash leaves behind. */
const LEFTOVER = '^plinth_scratch_\\d{14}_[0-9a-f]{12}$'
const LEFTOVER_AGE = '1 day'

export interface ScratchOptions {
  /** Of the database, for a temporary one beside it. The embedded database needs none. */
  url?: string
  /** Of any database of another server (or login) of the same major version, to make it there. */
  scratchUrl?: string
  /** Gives up, and removes what was made. */
  signal?: AbortSignal
}

/**
 * Makes an empty database like `db`, builds in it, works with it, and removes it again whatever happens.
 * On a server it is a temporary database, and what crashed runs left behind more than a day ago goes
 * too; of the embedded one, another in memory.
 *
 * @throws {ScratchError} where none can be made, with the way out; and what `build` and `work` throw.
 */
export async function withScratch<T>(
  db: Database,
  build: (scratch: Database) => Promise<void>,
  work: (scratch: Database) => Promise<T>,
  { url, scratchUrl, signal }: ScratchOptions = {},
): Promise<T> {
  signal?.throwIfAborted()
  const target = await describe(db)
  if (target.isEmbedded && !scratchUrl) {
    const scratch = await connect('memory://')
    return use(scratch, build, work, signal).finally(() => scratch.close())
  }
  const at = scratchUrl ?? url
  if (!at) {
    throw new ScratchError('url', 'to compare a database of a server, pass its url, or scratchUrl')
  }
  const server = await connect(at, { maxConnections: 1 })
  try {
    await checkVersion(target, server)
    await dropLeftovers(server)
    return await onServer(server, at, scratchUrl ? undefined : target, (scratch) =>
      use(scratch, build, work, signal),
    )
  } finally {
    await server.close()
  }
}

interface Described {
  version: number
  isEmbedded: boolean
  encoding: string
  provider: string
  collate: string
  ctype: string
  locale: string | null
}

async function describe(db: Database): Promise<Described> {
  const [found] = await rowsOf<Described>(
    db,
    sql`select current_setting('server_version_num')::int / 10000 as version,
        version() ~ 'wasm|emscripten' as "isEmbedded", pg_encoding_to_char(encoding) as encoding,
        case datlocprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end as provider,
        datcollate as collate, datctype as ctype,
        coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') as locale
      from pg_database d where datname = current_database()`,
  )
  return found as Described
}

async function checkVersion(target: Described, server: Database): Promise<void> {
  const { version } = await describe(server)
  if (version === target.version) return
  throw new ScratchError(
    'version',
    `the database is Postgres ${target.version}, the scratch server ${version}, and they print one definition in two ways; pass a scratchUrl of the same major version`,
  )
}

/** As the database, where it is the same server; as a new one of its own, where the locale may be unknown. */
function creation(name: string, like: Described | undefined): string {
  const create = `create database ${name} template template0`
  if (!like) return create
  const locale = like.provider === 'icu' ? 'icu_locale' : 'builtin_locale'
  return [
    create,
    `encoding ${literal(like.encoding)}`,
    `locale_provider ${like.provider}`,
    `lc_collate ${literal(like.collate)}`,
    `lc_ctype ${literal(like.ctype)}`,
    ...(like.provider !== 'libc' && like.locale ? [`${locale} ${literal(like.locale)}`] : []),
  ].join(' ')
}

async function onServer<T>(
  server: Database,
  url: string,
  like: Described | undefined,
  work: (scratch: Connection) => Promise<T>,
): Promise<T> {
  const [{ stamp } = { stamp: '' }] = await rowsOf<{ stamp: string }>(
    server,
    sql`select to_char(now() at time zone 'UTC', 'YYYYMMDDHH24MISS') as stamp`,
  )
  const name = `plinth_scratch_${stamp}_${randomBytes(6).toString('hex')}`
  const roles = await rolesOf(server)
  await rowsOf(server, sql.raw(creation(name, like))).catch((error) => {
    if (!(error instanceof ForbiddenError)) throw error
    throw new ScratchError(
      'createdb',
      'the login may not create a database to compare with; give it CREATEDB, or pass the scratchUrl of a server of the same major version where you may',
      { cause: error },
    )
  })
  try {
    const place = new URL(url)
    place.pathname = `/${name}`
    const scratch = await connect(place.href, { maxConnections: 1 })
    return await work(scratch).finally(() => scratch.close())
  } finally {
    await rowsOf(server, sql.raw(`drop database if exists ${name} with (force)`))
    await dropRoles(server, roles)
  }
}

const rolesOf = async (server: Database) =>
  new Set(
    (await rowsOf<{ name: string }>(server, sql`select rolname as name from pg_roles`)).map(
      ({ name }) => name,
    ),
  )

/**
 * Roles belong to all databases of a server: those of plinth that only building has made go with it. What
 * another database has given rights to meanwhile, Postgres does not drop.
 */
async function dropRoles(server: Database, before: ReadonlySet<string>): Promise<void> {
  for (const name of ['plinth_app', 'plinth_platform']) {
    if (!before.has(name)) {
      await rowsOf(server, sql.raw(`drop role if exists ${name}`)).catch(() => {})
    }
  }
}

async function dropLeftovers(server: Database): Promise<void> {
  const found = await rowsOf<{ name: string }>(
    server,
    sql`select datname as name from pg_database
      where datname ~ ${LEFTOVER} and pg_has_role(datdba, 'usage')
        and to_timestamp(substring(datname from '\\d{14}'), 'YYYYMMDDHH24MISS')::timestamp
          < (now() - ${LEFTOVER_AGE}::interval) at time zone 'UTC'`,
  )
  for (const { name } of found) {
    // Another run may be doing the same.
    await rowsOf(server, sql.raw(`drop database if exists ${name} with (force)`)).catch(() => {})
  }
}

async function use<T>(
  scratch: Database,
  build: (scratch: Database) => Promise<void>,
  work: (scratch: Database) => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  const run = async () => {
    await build(scratch).catch((error) => {
      throw extensionError(error) ?? error
    })
    signal?.throwIfAborted()
    return work(scratch)
  }
  return signal ? race(run(), signal) : run()
}

/** The result, or the reason for which it is not waited for any more. */
function race<T>(result: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    result.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}

function extensionError(error: unknown): ScratchError | undefined {
  if (!(error instanceof ForbiddenError) && !(error instanceof MigrationError)) return
  const [, extension] =
    /permission denied to create extension "(.+?)"|^the server has no extension (\S+?);/
      .exec(error.message)
      ?.filter(Boolean) ?? []
  if (!extension) return
  return new ScratchError(
    'extension',
    `the scratch database cannot have the extension ${extension}, which the server lacks or only a superuser may create; pass a scratchUrl with a login that may create it, on this server or another of the same major version`,
    { cause: error },
  )
}
