import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { connect } from '../src/database.ts'
import { migrate } from '../src/migrations/apply.ts'
import { activity } from './activity.ts'
import { guards } from './guards.ts'
import { latency } from './latency.ts'
import { migrations } from './migrations.ts'
import { scope } from './scope.ts'
import { search } from './search.ts'
import { testing } from './testing.ts'

interface BenchOptions {
  /** A tenth of the rows, where these take long. */
  quick: boolean
}

const benches: Record<string, (url: string, options: BenchOptions) => Promise<void>> = {
  latency,
  scope,
  search,
  activity,
  migrations,
  guards,
  testing,
}

const words = process.argv.slice(2)
const quick = words.includes('--quick')
const wanted = words.filter((word) => word !== '--quick')
const unknown = wanted.filter((name) => !(name in benches))
if (unknown.length > 0) {
  process.stderr.write(
    `no bench ${unknown.join(', ')}; there are ${Object.keys(benches).join(', ')}\n`,
  )
  process.exit(2)
}

/** DATABASE_URL, or a server of scripts/postgres.sh. */
const server =
  process.env.DATABASE_URL ??
  execFileSync(fileURLToPath(new URL('../scripts/postgres.sh', import.meta.url)), {
    encoding: 'utf8',
  }).trim()

const database = `plinth_bench_${process.pid}`
const sql = postgres(server, { max: 1, onnotice: () => {} })
const url = new URL(server)
url.pathname = `/${database}`
await sql.unsafe(`create database ${database}`)
try {
  const db = await connect(url.href)
  await migrate(db)
  await db.close()
  for (const [name, bench] of Object.entries(benches)) {
    if (wanted.length === 0 || wanted.includes(name)) await bench(url.href, { quick })
  }
} finally {
  await sql.unsafe(`drop database ${database} with (force)`)
  await sql.end()
}
