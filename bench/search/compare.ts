import postgres from 'postgres'
import type { Database } from '../../src/database.ts'
import { search } from '../../src/queries/search.ts'
import type { Space } from '../../src/schema/search.ts'
import { readInTenant } from '../../src/tenant.ts'
import { median } from '../support.ts'
import type { Question } from './data.ts'
import type { Found, Peer } from './peers.ts'
import { mean, ms, p95, printRows, recallOf, times } from './report.ts'

export const LIMIT = 10

/** Somebody who answers questions, with texts and metadata. */
export interface Contender {
  name: string
  search(question: Question): Promise<Found[]>
}

/** How a contender has answered, question by question. */
export interface Score {
  name: string
  recalls: number[]
  short: number
  times: number[]
}

/** As a user of plinth would: in a scope, under row level security, in one round trip. */
export const ours = (db: Database, space: Space): Contender => ({
  name: 'plinth',
  async search({ slice, vector }) {
    const [{ matches }] = await readInTenant(db, slice.scope, (tenant) => [
      search(tenant, { space, embedding: vector, limit: LIMIT }),
    ])
    return matches.map(({ chunkId, content, metadata }) => ({
      id: chunkId,
      text: content,
      metadata,
    }))
  },
})

/**
 * pgvector by hand, without row level security. Without a sort the planner has to take the HNSW index, as it
 * does where nothing else is indexed; with one it may scan the organization's rows.
 */
export function plain(url: string): { contenders: Contender[]; close(): Promise<void> } {
  const settings = {
    'pgvector, its HNSW index': { enable_sort: 'off' },
    'pgvector, iterative scan': { enable_sort: 'off', 'hnsw.iterative_scan': 'relaxed_order' },
    'pgvector, as it is planned': {},
  }
  const clients = Object.entries(settings).map(([name, connection]) => ({
    name,
    sql: postgres(url, { max: 1, connection }),
  }))
  return {
    contenders: clients.map(({ name, sql }) => ({
      name,
      search: ({ slice, vector }) => sql<Found[]>`
        select id, content as text, metadata, embedding <=> ${JSON.stringify(vector)}::vector as distance
        from bench.plain where organization_id = ${slice.scope.organizationId}
        order by embedding <=> ${JSON.stringify(vector)}::vector limit ${LIMIT}`,
    })),
    close: async () => {
      await Promise.all(clients.map(({ sql }) => sql.end()))
    },
  }
}

export const ofPeers = (peers: readonly Peer[]): Contender[] =>
  peers.flatMap(({ searches }) =>
    Object.entries(searches).map(([name, find]) => ({
      name,
      search: ({ slice, vector }: Question) => find(slice.scope.organizationId, vector, LIMIT),
    })),
  )

/**
 * Asks all contenders each question, so that whatever slows the machine down slows down all; another one first
 * each time, as nobody is to profit from what was read just before.
 */
export async function compare(
  contenders: readonly Contender[],
  questions: readonly Question[],
  rounds: number,
): Promise<Score[]> {
  const runs = contenders.map((contender) => {
    const score: Score = { name: contender.name, recalls: [], short: 0, times: [] }
    return { contender, score }
  })
  for (let round = -1; round < rounds; round += 1) {
    for (const [turn, question] of (round < 0 ? questions.slice(0, 8) : questions).entries()) {
      const first = turn % runs.length
      for (const { contender, score } of [...runs.slice(first), ...runs.slice(0, first)]) {
        const start = performance.now()
        const found = await contender.search(question)
        const took = performance.now() - start
        if (round < 0) continue
        score.times.push(took)
        if (round > 0) continue
        const ids = found.flatMap(({ id, text, metadata }) => (text && metadata ? [id] : []))
        score.recalls.push(recallOf(question.nearest, ids))
        if (ids.length < question.nearest.length) score.short += 1
      }
    }
  }
  return runs.map(({ score }) => score)
}

/** By the beginning of a contender's name: how many times faster than it a search is to be (S7). */
const TARGETS: Record<string, number> = { LangChain: 30, Mastra: 5, LlamaIndex: 3 }

/** Recall that differs by less is the same. */
const SAME = 0.005

export function printScores(title: string, scores: readonly Score[]): void {
  const [first] = scores
  const own = { ms: median(first?.times ?? []), recall: mean(first?.recalls ?? []) }
  printRows(
    title,
    ['', 'recall@10', 'short', 'p50 ms', 'p95 ms', 'to ours', 'S7'],
    scores.map(({ name, recalls, short, times: took }) => {
      const ratio = median(took) / own.ms
      const target = Object.entries(TARGETS).find(([start]) => name.startsWith(start))?.[1]
      const finds = mean(recalls) >= own.recall - SAME
      const verdict = !finds ? 'finds less' : ratio >= (target ?? 0) ? 'held' : 'missed'
      return [
        name,
        mean(recalls).toFixed(3),
        `${short}/${recalls.length}`,
        ms(median(took)),
        ms(p95(took)),
        times(ratio),
        target === undefined ? '' : `>= x${target}: ${verdict}`,
      ]
    }),
  )
}

/** The scores of several buckets as one. */
export const together = (buckets: readonly (readonly Score[])[]): Score[] =>
  (buckets[0] ?? []).map(({ name }, at) => {
    const parts = buckets.flatMap((scores) => scores[at] ?? [])
    return {
      name,
      recalls: parts.flatMap(({ recalls }) => recalls),
      short: parts.reduce((sum, { short }) => sum + short, 0),
      times: parts.flatMap((part) => part.times),
    }
  })
