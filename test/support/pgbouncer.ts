import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const SCRIPT = new URL('../../scripts/pgbouncer.sh', import.meta.url).pathname

export interface Pgbouncer {
  /** Of the same database and login, by way of the pooler: for `connect(url, { prepare: false })`. */
  url: string
  close(): Promise<void>
}

/** A pooler of its own in transaction mode before the server of `url`, with at most `poolSize` connections to it. */
export async function makePgbouncer(
  url: string,
  { poolSize = 20 }: { poolSize?: number } = {},
): Promise<Pgbouncer> {
  const home = await mkdtemp(join(tmpdir(), 'plinth-pgbouncer-'))
  await chmod(home, 0o755)
  const env = {
    ...process.env,
    DATABASE_URL: url,
    PGB_DATA: join(home, 'data'),
    PGB_POOL: String(poolSize),
  }
  const run = async (command: string) =>
    (await promisify(execFile)(SCRIPT, [command], { env })).stdout.trim()
  const close = async () => {
    await run('stop')
    await rm(home, { recursive: true, force: true })
  }
  return { url: await run('start'), close }
}
