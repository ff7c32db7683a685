// Migrates in a process of its own, which a test may kill: url, folder.
import { connect } from '../../src/database.ts'
import { migrate } from '../../src/migrations/apply.ts'

const [url = '', folder = ''] = process.argv.slice(2)
const db = await connect(url, { maxConnections: 2 })
process.stdout.write('begin\n')
await migrate(db, { sources: [{ name: 'app', folder }] })
process.stdout.write('end\n')
await db.close()
