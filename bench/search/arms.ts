import { type SQL, sql } from 'drizzle-orm'
import { connect, type Database, rowsOf } from '../../src/database.ts'
import { vectorText } from '../../src/embedding.ts'
import { search } from '../../src/queries/search.ts'
import type { Space } from '../../src/schema/search.ts'
import { inTenant, readInTenant, type Tenant } from '../../src/tenant.ts'
import { type Candidates, measureAll, median } from '../support.ts'
import { LIMIT } from './compare.ts'
import type { Question } from './data.ts'
import { mean, ms, printRows, recallOf, times } from './report.ts'

interface Row {
  name: string
  medianMs: number
  /** Beside the ratio to the first row. */
  note?: string
  target?: string
}

function printRatios(title: string, rows: readonly Row[]): void {
  const base = rows[0]?.medianMs ?? Number.NaN
  printRows(
    title,
    ['', 'p50 ms', 'ratio', 'target', ''],
    rows.map(({ name, medianMs, note = '', target = '' }) => [
      name,
      ms(medianMs),
      times(medianMs / base),
      target,
      note,
    ]),
  )
}

/**
 * S5, S6, S8 and S9 in one tenant. Within a scope that is open already, so that only the query is timed; on a
 * second connection, as the owner of the tables, what is to be without row level security.
 */
export async function measureArms(
  url: string,
  space: Space,
  questions: readonly Question[],
  rounds: number,
): Promise<void> {
  const [first] = questions
  if (!first) return
  const { scope, size } = first.slice
  const options = { maxConnections: 1, idleInTransactionTimeoutMs: 600_000 }
  const [guarded, free] = [await connect(url, options), await connect(url, options)]
  const measure = (candidates: Record<string, (question: Question) => Promise<unknown>>) =>
    measureAll(inTurn(candidates, questions), { warmup: 10, rounds })
  try {
    await inTenant(guarded, scope, (tenant) =>
      free.transaction(async (owner) => {
        const where = `${size} rows of a tenant, ${space.dimensions} dimensions`
        const [exactly, found] = await measure({
          exactly: ({ vector }) => exact(tenant, space, vector),
          search: ({ vector }) => search(tenant, { space, embedding: vector, limit: LIMIT }),
        })
        const { recall, plan, armMs } = await explained(tenant, space, questions)
        const [number, target] =
          size <= 4_000
            ? ['S5', '<= x1.20, recall 1.00']
            : ['S6', '<= x0.30 above 6,000, recall >= 0.97']
        printRatios(`${number}: nearest ${LIMIT} of ${where}`, [
          { name: 'exact scan of the slice, by hand', medianMs: exactly?.medianMs ?? Number.NaN },
          {
            name: 'plinth search',
            medianMs: found?.medianMs ?? Number.NaN,
            target,
            note: `recall ${recall.toFixed(3)}, ${plan}; the arm itself ${ms(armMs)} ms`,
          },
        ])

        const words = await measure({
          'by hand, without row level security': ({ text }) => byWords(owner, scope, text),
          'plinth search': ({ text }) => search(tenant, { query: text, limit: LIMIT }),
          'by hand, under row level security': ({ text }) => byWords(tenant.db, scope, text),
        })
        printRatios(
          `S8: text, best ${LIMIT} of ${where}`,
          words.map((row, at) => ({ ...row, ...(at === 1 && { target: '<= x1.30' }) })),
        )
        printRatios(`S9: hybrid with content, ${where}`, await hybrid(tenant, space, measure))
      }),
    )
  } finally {
    await Promise.all([guarded.close(), free.close()])
  }
}

/** Of what the arms cost alone, what they cost in one statement, and one after the other. */
async function hybrid(
  tenant: Tenant,
  space: Space,
  measure: (
    candidates: Record<string, (question: Question) => Promise<unknown>>,
  ) => Promise<{ name: string; medianMs: number }[]>,
): Promise<Row[]> {
  // Each arm of a hybrid search is asked for four times as many.
  const limit = LIMIT * 4
  const [near, words, nearMore, wordsMore, both, apart] = (
    await measure({
      near: ({ vector }) => search(tenant, { space, embedding: vector, limit: LIMIT }),
      words: ({ text }) => search(tenant, { query: text, limit: LIMIT }),
      nearMore: ({ vector }) => search(tenant, { space, embedding: vector, limit }),
      wordsMore: ({ text }) => search(tenant, { query: text, limit }),
      both: ({ vector, text }) =>
        search(tenant, { space, embedding: vector, query: text, limit: LIMIT }),
      apart: async ({ vector, text }) => {
        await search(tenant, { space, embedding: vector, limit })
        await search(tenant, { query: text, limit })
      },
    })
  ).map(({ medianMs }) => medianMs)
  return [
    {
      name: `vector arm + text arm, ${LIMIT} of each`,
      medianMs: (near ?? Number.NaN) + (words ?? Number.NaN),
    },
    {
      name: `vector arm + text arm, ${limit} of each`,
      medianMs: (nearMore ?? Number.NaN) + (wordsMore ?? Number.NaN),
    },
    {
      name: 'plinth hybrid search, one round trip',
      medianMs: both ?? Number.NaN,
      target: '<= x1.10',
    },
    { name: 'two searches, one after the other', medianMs: apart ?? Number.NaN },
  ]
}

/** What a search costs besides its arm, which is next to nothing in the smallest tenant. */
export async function measureAround(
  db: Database,
  space: Space,
  questions: readonly Question[],
  rounds: number,
): Promise<void> {
  const [first] = questions
  if (!first) return
  const { scope, size } = first.slice
  const find = (tenant: Tenant, { vector }: Question) =>
    search(tenant, { space, embedding: vector, limit: LIMIT })
  const run = { warmup: 20, rounds }
  const entering = {
    'a scope, and nothing in it': () =>
      readInTenant(db, scope, ({ db }) => [db.select({ one: sql`1` }).from(sql`(select) s`)]),
    'a scope, and the search': (question: Question) =>
      readInTenant(db, scope, (tenant) => [find(tenant, question)]),
  }
  const outer = await measureAll(inTurn(entering, questions), run)
  const inner = await inTenant(db, scope, async (tenant) => {
    const [alone] = await measureAll(
      inTurn({ search: (question) => find(tenant, question) }, questions),
      run,
    )
    return { search: alone?.medianMs, ...(await explained(tenant, space, questions)) }
  })
  printRatios(`Around a search: ${size} rows of a tenant, ${space.dimensions} dimensions`, [
    { name: 'the arm, in the database', medianMs: inner.armMs },
    { name: 'the search, in an open scope', medianMs: inner.search ?? Number.NaN },
    ...outer,
  ])
}

/** Each candidate goes through the questions at its own pace. */
const inTurn = (
  candidates: Record<string, (question: Question) => Promise<unknown>>,
  questions: readonly Question[],
): Candidates =>
  Object.fromEntries(
    Object.entries(candidates).map(([name, run]) => {
      let turn = 0
      return [
        name,
        async () => {
          const question = questions[turn % questions.length]
          turn += 1
          if (question) await run(question)
        },
      ]
    }),
  )

/** How a tenant's questions are answered: how well, by which plans, and in how long without all around it. */
export async function explained(tenant: Tenant, space: Space, questions: readonly Question[]) {
  const recalls: number[] = []
  const armTimes: number[] = []
  const plans = new Set<string>()
  for (const { vector, nearest } of questions) {
    const options = { space, embedding: vector, limit: LIMIT, explain: true }
    const { matches, explain } = await search(tenant, options)
    const ids = matches.map(({ chunkId }) => chunkId)
    recalls.push(recallOf(nearest, ids))
    armTimes.push(explain?.vector?.tookMs ?? Number.NaN)
    plans.add(explain?.vector?.plan ?? 'unknown')
  }
  return { recall: mean(recalls), plan: [...plans].join(' or '), armMs: median(armTimes) }
}

/** As somebody would write it who knows that the slice is small. */
const exact = (tenant: Tenant, space: Space, vector: readonly number[]) =>
  rowsOf(
    tenant.db,
    sql`
      select c.*, near.distance from (
        select e.chunk_id, e.embedding operator(public.<=>) ${vectorText(vector)}::public.halfvec as distance
        from search.embeddings e
        where e.organization_id = ${tenant.organizationId} and e.space_id = ${space.id}
        order by distance limit ${LIMIT}
      ) as near join search.chunks c
        on c.organization_id = ${tenant.organizationId} and c.id = near.chunk_id
      order by near.distance`,
  )

function byWords(db: Database, { organizationId }: { organizationId: string }, text: string) {
  const query: SQL = sql`websearch_to_tsquery('english', ${text})`
  return rowsOf(
    db,
    sql`
      select c.* from search.chunks c
      where c.organization_id = ${organizationId} and c.terms @@ ${query}
      order by ts_rank(c.terms, ${query}, 1) desc, c.id limit ${LIMIT}`,
  )
}
