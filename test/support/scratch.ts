import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/pglite'
import { afterAll } from 'vitest'
import { type Connection, connect, type Database, openPglite } from '../../src/database.ts'
import type { MigrationSource } from '../../src/migrations/folder.ts'
import { adminUrl } from './database.ts'

export interface Scratch {
  /** Of the server's database, as a superuser; empty on PGlite. */
  url: string
  db: Database
  close(): Promise<void>
}

const scratches: Scratch[] = []
let server: Promise<Connection> | undefined

/** As a superuser, in the database of the run; on the server only. */
export const administer = async (statement: string): Promise<void> => {
  server ??= connect(adminUrl ?? '', { maxConnections: 1 })
  await (await server).execute(sql.raw(statement))
}

let count = 0

/** An empty database, until the file's tests have ended: on the server, where there is one. */
export async function makeScratch({
  owner,
  maxConnections = 4,
}: {
  owner?: string
  maxConnections?: number
} = {}): Promise<Scratch> {
  const scratch = adminUrl ? await onServer(adminUrl, owner, maxConnections) : await onPglite()
  scratches.push(scratch)
  return scratch
}

// To open one from nothing takes three times as long as from a copy.
let nothing: Promise<Blob | File> | undefined

async function dumpNothing() {
  const client = await openPglite()
  return client.dumpDataDir('none').finally(() => client.close())
}

async function onPglite(): Promise<Scratch> {
  nothing ??= dumpNothing()
  const client = await openPglite({ loadDataDir: await nothing })
  return { url: '', db: drizzle({ client }), close: () => client.close() }
}

async function onServer(admin: string, owner: string | undefined, maxConnections: number) {
  count += 1
  const name = `plinth_scratch_${process.pid}_${count}`
  await administer(`create database ${name} ${owner ? `owner ${owner}` : ''}`)
  const url = Object.assign(new URL(admin), { pathname: `/${name}` }).href
  const db = await connect(url, { maxConnections })
  const close = async () => {
    await db.close()
    await administer(`drop database if exists ${name} with (force)`)
  }
  return { url, db, close }
}

/** An empty database of the embedded kind, also where there is a server. */
export async function makePglite(): Promise<Database> {
  const scratch = await onPglite()
  scratches.push(scratch)
  return scratch.db
}

/** An empty database of the server, with a superuser's rights; undefined without a server. */
export const makeServerDatabase = async (): Promise<Database | undefined> =>
  adminUrl ? (await makeScratch({ maxConnections: 1 })).db : undefined

/** Runs statements one after the other. */
export async function runAll(db: Database, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await db.execute(sql.raw(statement))
}

const folders: string[] = []

export interface WrittenMigration {
  up: string
  down?: string
  /** Of migration.ts. */
  module?: string
}

/** Writes migrations into a folder of their own, each under a name that begins with its place. */
export async function makeSource(
  migrations: Record<string, string | WrittenMigration>,
): Promise<MigrationSource> {
  // Where a migration.ts finds the packages that it imports.
  const cache = fileURLToPath(new URL('../../node_modules/.cache', import.meta.url))
  await mkdir(cache, { recursive: true })
  const folder = await mkdtemp(join(cache, 'plinth-migrations-'))
  folders.push(folder)
  for (const [at, [name, migration]] of Object.entries(migrations).entries()) {
    const stamp = `${20260101000000 + at}`
    await writeMigration(folder, /^\d{14}_/.test(name) ? name : `${stamp}_${name}`, migration)
  }
  return { name: 'app', folder }
}

export async function writeMigration(
  folder: string,
  name: string,
  migration: string | WrittenMigration,
): Promise<void> {
  const { up, down, module } = typeof migration === 'string' ? { up: migration } : migration
  await mkdir(join(folder, name), { recursive: true })
  await writeFile(join(folder, name, 'migration.sql'), up)
  if (down !== undefined) await writeFile(join(folder, name, 'down.sql'), down)
  if (module !== undefined) await writeFile(join(folder, name, 'migration.ts'), module)
}

afterAll(async () => {
  for (const { close } of scratches.reverse()) await close()
  for (const folder of folders) await rm(folder, { recursive: true, force: true })
  await (await server)?.close()
})
