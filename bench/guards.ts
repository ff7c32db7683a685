import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import { connect } from '../src/database.ts'
import { migrate } from '../src/migrations/apply.ts'
import { makeCluster } from '../test/support/cluster.ts'
import { guarding } from './guards/every.ts'
import { reserving } from './guards/reserve.ts'
import { spend } from './guards/spend.ts'

/**
 * S11: what was spent, by the roll-up. S12: reservations of many tenants. S13: of one, on a server that is durable.
 * And every guard against a plain insert, at 1, 16 and 64 clients.
 */
export async function guards(url: string, { quick }: { quick: boolean }): Promise<void> {
  const seconds = quick ? 1 : 3
  await spend(url)
  await reserving(url, { clients: 16, tenants: 100, counters: [1], seconds })
  await onDurableServer((durable) =>
    reserving(durable, { clients: 16, tenants: 1, counters: [1, 16, 32], seconds }),
  )
  for (const clients of [1, 16, 64]) await guarding(url, { clients, seconds })
}

/** A server of its own that waits for its disk at each COMMIT, as the one for development does not. */
async function onDurableServer(run: (url: string) => Promise<void>): Promise<void> {
  const cluster = await makeCluster()
  try {
    const settings = ['fsync = on', 'synchronous_commit = on', 'full_page_writes = on']
    await appendFile(join(cluster.data, 'postgresql.conf'), `${settings.join('\n')}\n`)
    await cluster.kill()
    await cluster.start()
    const db = await connect(cluster.url)
    await migrate(db)
    await db.close()
    await run(cluster.url)
  } finally {
    await cluster.remove()
  }
}
