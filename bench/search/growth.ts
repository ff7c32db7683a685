import type { Sql } from 'postgres'
import type { Database } from '../../src/database.ts'
import { asService } from '../../src/tenant.ts'
import { median } from '../support.ts'
import { explained } from './arms.ts'
import { compare, ours } from './compare.ts'
import { addItems, makeItems, makeQuestions, type Slice } from './data.ts'
import { loadOurs, makeSpaceAlone } from './load.ts'
import { mean, ms, p95, printRows, times } from './report.ts'

const DIMENSIONS = 384
/** Of the tenant that stays as it is. */
const FIXED = 2_000
const OTHERS = 20

/**
 * What a search costs as the table grows: in a tenant that does not grow, and in the largest, which has two
 * fifths of all rows.
 */
export async function growth(
  sql: Sql,
  db: Database,
  { totals, questions }: { totals: readonly number[]; questions: number },
): Promise<void> {
  const space = await makeSpaceAlone(sql, db, DIMENSIONS)
  const shape = { dimensions: DIMENSIONS, wordsPerText: 8 }
  const fixed = Math.min(FIXED, Math.floor((totals[0] ?? 0) / 5))
  const slices = await makeItems(sql, db, {
    ...shape,
    sizes: [fixed, ...Array.from({ length: OTHERS + 1 }, () => 0)],
  })
  const [small, largest, ...others] = slices
  if (!small || !largest) return
  let [next, loaded] = [fixed, 0]
  let base: number[] = []
  const rows: string[][] = []
  for (const total of totals) {
    // The largest is at two fifths again; the rest of what is new is for the others, evenly.
    const added = Math.round(total * 0.4) - largest.size
    const each = Math.floor((total - next - added) / OTHERS)
    const more: Slice[] = []
    for (const [slice, size] of [
      [largest, added] as const,
      ...others.map((o) => [o, each] as const),
    ]) {
      more.push({ ...slice, from: next, size })
      next += size
    }
    await addItems(sql, shape, more)
    largest.size += added
    const [built] = await loadOurs(sql, space, loaded)
    loaded = next

    const newest = more[0] ?? largest
    const medians: number[] = []
    for (const [at, slice] of [small, newest].entries()) {
      const asked = await makeQuestions(sql, [slice], { count: questions, limit: 10 })
      const [score] = await compare([ours(db, space)], asked, 3)
      if (!score) continue
      const { plan } = await asService(db, slice.scope.organizationId, (tenant) =>
        explained(tenant, space, asked),
      )
      medians.push(median(score.times))
      rows.push([
        `${next} rows, ${at === 0 ? `the one of ${fixed}` : `the largest, ${largest.size}`}`,
        mean(score.recalls).toFixed(3),
        `${score.short}/${score.recalls.length}`,
        ms(median(score.times)),
        ms(p95(score.times)),
        times(median(score.times) / (base[at] ?? median(score.times))),
        plan,
        at === 0 ? ((built?.buildMs ?? Number.NaN) / 1000).toFixed(1) : '',
      ])
    }
    if (base.length === 0) base = medians
  }
  printRows(
    `Growth: nearest 10, ${DIMENSIONS} dimensions, plinth`,
    ['', 'recall@10', 'short', 'p50 ms', 'p95 ms', 'to the first', 'plan', 'HNSW built in s'],
    rows,
  )
}
