import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll } from 'vitest'

export interface Child {
  /** Resolves when it has said so. */
  said(text: string): Promise<void>
  signal(name: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void
  /** All that it has said, when it has ended. */
  ended(): Promise<string[]>
}

const children: ChildProcess[] = []

// One that a failed test has left stopped would never end by itself.
afterAll(() => {
  for (const child of children) child.kill('SIGKILL')
})

/** Runs a script of test/support in a process of its own, with lines of its output to wait for. */
export function runChild(script: string, args: string[], env: Record<string, string> = {}): Child {
  const child: ChildProcess = spawn(
    process.execPath,
    ['--import', 'tsx', `test/support/${script}.ts`, ...args],
    { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } },
  )
  children.push(child)
  const exit = once(child, 'close')
  let text = ''
  let notice = () => {}
  child.stdout?.on('data', (data) => {
    text += data
    notice()
  })
  exit.then(() => notice())
  const lines = () => text.split('\n').filter((line) => line !== '')
  return {
    said: async (line) => {
      while (!lines().includes(line)) {
        if (child.exitCode !== null) throw new Error(`it ended, and has said: ${text}`)
        await new Promise<void>((resolve) => {
          notice = resolve
        })
      }
    },
    signal: (name) => void child.kill(name),
    ended: async () => {
      await exit
      return lines()
    },
  }
}

/** Waits for the abort of a signal, which may have been. */
export const aborted = async (signal: AbortSignal): Promise<void> => {
  if (!signal.aborted) await once(signal, 'abort')
}
