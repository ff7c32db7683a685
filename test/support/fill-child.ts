// Fills a space in a process of its own, which a test may kill: url, space.
import { setTimeout as pause } from 'node:timers/promises'
import { connect } from '../../src/database.ts'
import { fillSpace } from '../../src/queries/filling.ts'

const [url = '', id = ''] = process.argv.slice(2)
const db = await connect(url, { maxConnections: 4 })
let calls = 0
await fillSpace(db, {
  ...{ space: { id }, maxBatch: 3, concurrency: 2, leaseMs: 3_000 },
  embed: async (texts) => {
    calls += 1
    process.stdout.write(`call ${calls}\n`)
    await pause(500)
    return { embeddings: texts.map((text) => Array.from({ length: 32 }, () => text.length)) }
  },
})
await db.close()
