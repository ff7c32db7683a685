import fc from 'fast-check'

/** What is drawn is the same in every run, so that what has passed passes; `PLINTH_TEST_SEED` draws something else. */
const SEED = Number(process.env.PLINTH_TEST_SEED ?? 1)

fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: SEED })

/** Whole numbers from 0 to below `below`, the same for a seed (mulberry32). */
export function random(seed = SEED): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}
