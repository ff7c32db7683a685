import { openProxy } from '../test/support/proxy.ts'

export interface MeasureOptions {
  /** Unmeasured calls of each candidate before the first measured one. */
  warmup?: number
  /** Measured calls of each candidate. */
  rounds?: number
}

export interface Measurement {
  name: string
  /** The median of one call, in milliseconds. */
  medianMs: number
}

export type Candidates = Record<string, () => Promise<unknown>>

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/** Calls the candidates in turn, so that whatever slows the machine down slows down all of them. */
export async function measureAll(
  candidates: Candidates,
  { warmup = 50, rounds = 500 }: MeasureOptions = {},
): Promise<Measurement[]> {
  const entries = Object.entries(candidates).map(([name, run]) => ({
    name,
    run,
    times: [] as number[],
  }))
  for (let round = -warmup; round < rounds; round += 1) {
    for (const { run, times } of entries) {
      const start = performance.now()
      await run()
      if (round >= 0) times.push(performance.now() - start)
    }
  }
  return entries.map(({ name, times }) => ({ name, medianMs: median(times) }))
}

/** Prints medians, and their ratio to the first row. */
export function printTable(title: string, measurements: readonly Measurement[]): void {
  const base = measurements[0]?.medianMs ?? Number.NaN
  const width = Math.max(...measurements.map(({ name }) => name.length))
  const lines = measurements.map(({ name, medianMs }) => {
    const ratio = (medianMs / base).toFixed(2)
    return `  ${name.padEnd(width)}  ${medianMs.toFixed(3).padStart(9)} ms  x${ratio}`
  })
  process.stdout.write(`${[title, ...lines].join('\n')}\n\n`)
}

/** Runs against the same server with a round trip that takes `delayMs` longer. */
export async function withDelayProxy<T>(
  url: string,
  delayMs: number,
  run: (url: string) => Promise<T>,
): Promise<T> {
  const proxy = await openProxy(url, { delayMs })
  try {
    return await run(proxy.url)
  } finally {
    await proxy.close()
  }
}
