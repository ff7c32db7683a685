import { Option } from 'commander'
import { type Connection, connect } from '../database.ts'
import { type Progress, UsageError } from './terminal.ts'

export interface TargetOptions {
  data?: string
  url?: string
}

/** Where the database is. Both name one; nothing means the embedded one in .plinth. */
export const targetOptions = () => [
  new Option('--data <folder>', 'folder of the embedded database (default: .plinth)').conflicts(
    'url',
  ),
  new Option('--url <postgres-url>', 'a Postgres server instead of the embedded database'),
]

/** Opens what the options name, and closes it again whatever happens. */
export async function withDatabase<T>(
  { data, url }: TargetOptions,
  progress: Progress,
  work: (db: Connection) => Promise<T>,
): Promise<T> {
  if (url !== undefined && !/^postgres(ql)?:\/\//.test(url)) {
    throw new UsageError('--url must begin with postgres:// or postgresql://')
  }
  const target = data ?? url
  progress.doing(`opening ${data ?? (url ? 'the server' : '.plinth')}`)
  const db = await connect(target)
  try {
    return await work(db)
  } finally {
    await db.close()
  }
}
