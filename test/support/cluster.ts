import { execFile } from 'node:child_process'
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'

const SCRIPT = new URL('../../scripts/postgres.sh', import.meta.url).pathname

/** A server of its own, that may be killed. */
export interface Cluster {
  /** Of the database `postgres`, as a superuser. */
  url: string
  /** The folder of its data, with its configuration. */
  data: string
  /** Kills every process of it with SIGKILL, and waits until they are gone. */
  kill(): Promise<void>
  /** Starts it again, at the same port. */
  start(): Promise<void>
  remove(): Promise<void>
}

export async function makeCluster(): Promise<Cluster> {
  const home = await mkdtemp(join(tmpdir(), 'plinth-cluster-'))
  await chmod(home, 0o755)
  const data = join(home, 'data')
  const run = async (command: string, env: Record<string, string> = {}) =>
    (
      await promisify(execFile)(SCRIPT, [command], {
        env: { ...process.env, PGV_DATA: data, ...env },
      })
    ).stdout.trim()
  const url = await run('start')
  const PGV_PORT = new URL(url).port

  async function kill() {
    const pid = Number((await readFile(join(data, 'postmaster.pid'), 'utf8')).split('\n')[0])
    const family = [pid, ...(await childrenOf(pid))]
    for (const one of family) end(one)
    while ((await Promise.all(family.map(isAlive))).some(Boolean)) await pause(5)
    // A zombie that nobody collects would pass for a running server.
    await rm(join(data, 'postmaster.pid'), { force: true })
  }
  const remove = async () => {
    await run('stop').catch(() => {})
    await rm(home, { recursive: true, force: true })
  }
  return { url, data, kill, start: async () => void (await run('start', { PGV_PORT })), remove }
}

function end(pid: number) {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended already.
  }
}

/** A zombie is not alive: nobody here may have to collect it. */
async function isAlive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  return stat !== undefined && !/\) Z /.test(stat)
}

async function childrenOf(parent: number): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const parents = await Promise.all(
    pids.map(async (pid) => {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
      return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
    }),
  )
  return pids.filter((_, at) => parents[at] === parent)
}
