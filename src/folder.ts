import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { DatabaseInUseError, ValidationError } from './errors.ts'

/**
 * Makes a folder this process's own, and the folder itself if it is not there: PGlite has one writer, and
 * a second one would destroy the files. A process that died has left it free.
 *
 * @returns what gives it back.
 * @throws {DatabaseInUseError} @throws {ValidationError} for what can be no folder.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const file = join(folder, 'lock')
  const mine = `${file}.${process.pid}.${crypto.randomUUID()}`
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(mine, `${process.pid} ${(await startOf(process.pid)) ?? ''}`)
  } catch (error) {
    throw new ValidationError(
      'target',
      `${folder} is no folder that can be written: ${codeOf(error)}`,
    )
  }
  try {
    await take(folder, file, mine)
  } finally {
    await rm(mine, { force: true })
  }
  return () => rm(file, { force: true })
}

/** A link is made by one process only, and is whole from the first moment. */
async function take(folder: string, file: string, mine: string): Promise<void> {
  const deadline = Date.now() + TAKE_OVER_MS
  while (!(await linked(mine, file))) {
    const holder = await readFile(file, 'utf8').catch(() => undefined)
    if (holder === undefined) continue
    if (await isRunning(holder)) throw new DatabaseInUseError(folder, Number.parseInt(holder, 10))
    await removeDead(file, holder, Date.now() > deadline)
  }
}

/** How long another process may take over from a dead one before it counts as dead itself. */
const TAKE_OVER_MS = 5_000

/** One at a time, or a second one would remove the lock that the first has made in the meantime. */
async function removeDead(file: string, holder: string, isLate: boolean): Promise<void> {
  const turn = `${file}.turn`
  if (isLate) await rm(turn, { recursive: true, force: true })
  const isMine = await mkdir(turn).then(
    () => true,
    () => false,
  )
  if (!isMine) return pause(10)
  const found = await readFile(file, 'utf8').catch(() => undefined)
  if (found === holder) await rm(file, { force: true })
  await rm(turn, { recursive: true, force: true })
}

const linked = (from: string, to: string) =>
  link(from, to).then(
    () => true,
    (error) => {
      if (codeOf(error) === 'EEXIST') return false
      throw error
    },
  )

async function isRunning(holder: string): Promise<boolean> {
  const [pid = '', start = ''] = holder.split(' ')
  try {
    process.kill(Number(pid), 0)
  } catch (error) {
    // Somebody else's, and so running.
    if (codeOf(error) !== 'EPERM') return false
  }
  // Process numbers are given again, in a container the same ones every time.
  const now = await startOf(Number(pid))
  return start === '' || now === undefined || now === start
}

/** When a process was started, in ticks since boot; undefined where the system does not tell. */
async function startOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The name of the program, in brackets, may hold anything; the start is the 20th field behind it.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
}

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error ? String(error.code) : String(error)
