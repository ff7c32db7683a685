import postgres, { type Sql } from 'postgres'
import { connect, type Database } from '../src/database.ts'
import { measureArms, measureAround } from './search/arms.ts'
import {
  compare,
  ofPeers,
  ours,
  plain,
  printScores,
  type Score,
  together,
} from './search/compare.ts'
import { CLUSTERS, makeItems, makeQuestions, type Slice, zipfSizes } from './search/data.ts'
import { growth } from './search/growth.ts'
import { loadOurs, loadPeer, loadPlain, makeSpaceAlone, printSizes } from './search/load.ts'
import { installPeers, openPeers } from './search/peers.ts'

const TENANTS = 200
/** By the largest size of a tenant in it. */
const BUCKETS = [100, 1_000, 4_000, 6_000, Number.POSITIVE_INFINITY]

interface Load {
  rows: number
  dimensions: number
  /** The exponent of Zipf's law. */
  skew: number
  questions: number
}

/**
 * S5 to S9: what a search finds and what it costs, by size of the tenant, ours beside plain pgvector and the
 * vector stores of LangChain, Mastra and LlamaIndex on the same data; what the indexes take; and how our
 * latency grows with the table. `quick` has a tenth of the rows.
 */
export async function search(url: string, { quick }: { quick: boolean }): Promise<void> {
  const scale = quick ? 0.1 : 1
  const questions = quick ? 12 : 40
  const versions = installPeers()
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const { pathname } = new URL(url)
  // All indexes are built in memory, whoever builds them.
  await sql.unsafe(`alter database ${pathname.slice(1)} set maintenance_work_mem = '1GB'`)
  await sql.end()
  const owner = postgres(url, { max: 1, onnotice: () => {} })
  const db = await connect(url, { statementTimeoutMs: 900_000 })
  try {
    const [engine] = await owner<{ version: string }[]>`
      select current_setting('server_version') || ', pgvector ' || extversion as version
      from pg_extension where extname = 'vector'`
    process.stdout.write(`Postgres ${engine?.version}; ${versions}\n\n`)
    await side(url, owner, db, { rows: 100_000 * scale, dimensions: 384, skew: 1.2, questions })
    await side(url, owner, db, { rows: 20_000 * scale, dimensions: 1_536, skew: 1.5, questions })
    await growth(owner, db, {
      totals: [10_000, 100_000, 300_000].map((rows) => rows * scale),
      questions: questions / 2,
    })
  } finally {
    await Promise.all([db.close(), owner.end()])
  }
}

/** All contenders, side by side on one set of data. */
async function side(url: string, sql: Sql, db: Database, load: Load): Promise<void> {
  const { dimensions } = load
  const sizes = zipfSizes(load.rows, TENANTS, load.skew)
  const total = sizes.reduce((sum, size) => sum + size, 0)
  const slices = await makeItems(sql, db, { dimensions, sizes, wordsPerText: 36 })
  const space = await makeSpaceAlone(sql, db, dimensions)
  const peers = await openPeers(url, dimensions)
  const byHand = plain(url)
  try {
    const built = [...(await loadOurs(sql, space)), await loadPlain(sql, dimensions)]
    for (const peer of peers) built.push(await loadPeer(sql, peer))
    const title = `${total} rows of ${dimensions} dimensions in ${CLUSTERS} clusters, ${TENANTS} tenants of ${sizes[0]} down to ${sizes.at(-1)}`
    await printSizes(sql, title, built)

    const contenders = [ours(db, space), ...byHand.contenders, ...ofPeers(peers)]
    const scores: Score[][] = []
    for (const { name, members } of bucketsOf(slices)) {
      const questions = await makeQuestions(sql, members, { count: load.questions, limit: 10 })
      const bucket = await compare(contenders, questions, 2)
      scores.push(bucket)
      printScores(`${dimensions} dimensions, ${name}`, bucket)
    }
    printScores(`S7: ${dimensions} dimensions, all tenants that were asked`, together(scores))

    const smallest = await makeQuestions(sql, slices.slice(-1), { count: 12, limit: 10 })
    await measureAround(db, space, smallest, load.questions * 5)
    for (const { members } of bucketsOf(slices)) {
      const questions = await makeQuestions(sql, members.slice(0, 1), {
        count: load.questions,
        limit: 10,
      })
      await measureArms(url, space, questions, load.questions * 2)
    }
  } finally {
    await Promise.all([byHand.close(), ...peers.map((peer) => peer.close())])
    const tables = ['bench.plain', ...peers.map(({ table }) => table)]
    await sql.unsafe(`drop table if exists ${tables.join(', ')}`)
  }
}

/** The tenants of each size that there is, largest first: up to ten, spread over the bucket. */
function bucketsOf(slices: readonly Slice[]): { name: string; members: Slice[] }[] {
  return BUCKETS.flatMap((most, at) => {
    const least = at === 0 ? 0 : (BUCKETS[at - 1] ?? 0)
    const members = slices.filter(({ size }) => size > least && size <= most)
    if (members.length === 0) return []
    const range = Number.isFinite(most) ? `of ${least + 1} to ${most}` : `above ${least}`
    const step = Math.ceil(members.length / 10)
    return {
      name: `tenants ${range} rows (${members.length})`,
      members: members.filter((_, place) => place % step === 0),
    }
  })
}
