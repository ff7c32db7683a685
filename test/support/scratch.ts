import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/pglite'
import { afterAll } from 'vitest'
import { connect, type Database, openPglite } from '../../src/database.ts'
import { adminUrl } from './database.ts'

const ends: (() => Promise<void>)[] = []

/** Runs statements one after the other. */
export async function runAll(db: Database, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await db.execute(sql.raw(statement))
}

/** An empty PGlite. */
export async function makePglite(): Promise<Database> {
  const client = await openPglite()
  ends.unshift(() => client.close())
  return drizzle({ client })
}

/** An empty database of the server, with a superuser's rights; undefined without a server. */
export async function makeServerDatabase(): Promise<Database | undefined> {
  if (!adminUrl) return
  const server = await connect(adminUrl, { maxConnections: 1 })
  const name = `plinth_scratch_${process.pid}_${ends.length}_${Date.now() % 1e6}`
  await server.execute(sql.raw(`create database ${name}`))
  const url = new URL(adminUrl)
  url.pathname = `/${name}`
  const db = await connect(url.href, { maxConnections: 1 })
  ends.unshift(async () => {
    await db.close()
    await server.execute(sql.raw(`drop database ${name} with (force)`))
    await server.close()
  })
  return db
}

afterAll(async () => {
  for (const end of ends) await end()
})
