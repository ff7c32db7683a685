import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Sql } from 'postgres'
import type { Database } from '../../src/database.ts'
import { uuidV7 } from '../../src/schema/columns.ts'
import type { Scope } from '../../src/tenant.ts'
import { makeScope } from '../../src/testing/factories.ts'

export const CLUSTERS = 200

export interface Shape {
  dimensions: number
  /** Rows of each tenant. */
  sizes: readonly number[]
  wordsPerText: number
}

/** A tenant, and which of the items are its own: from `from`, `size` of them. */
export interface Slice {
  scope: Scope
  from: number
  size: number
}

/** What is asked of a tenant, and the ids that an exact scan finds, nearest first. */
export interface Question {
  slice: Slice
  vector: number[]
  /** A word of the topic, and a common one; both in the text of the same item. */
  text: string
  nearest: string[]
}

/** Sizes by Zipf's law with the exponent `skew`, of 12 rows at least, so that there are ten to be found. */
export function zipfSizes(rows: number, tenants: number, skew: number): number[] {
  const weights = Array.from({ length: tenants }, (_, at) => (at + 1) ** -skew)
  const sum = weights.reduce((total, weight) => total + weight, 0)
  return weights.map((weight) => Math.max(12, Math.round((rows * weight) / sum)))
}

/** Numbers from 0 to 1, always the same for a seed (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A vector of about length 1 in a random direction: of normal deviates (Box and Muller 1958). */
function direction(random: () => number, dimensions: number): number[] {
  const scale = 1 / Math.sqrt(dimensions)
  return Array.from(
    { length: dimensions },
    () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()) * scale,
  )
}

/** The sum of two vectors at length 1, to five decimals: more than a half-precision float holds. */
function near(centre: readonly number[], noise: readonly number[], share: number): number[] {
  const sum = centre.map((value, at) => value + share * (noise[at] ?? 0))
  const length = Math.hypot(...sum)
  return sum.map((value) => Math.round((value / length) * 1e5) / 1e5)
}

const FRONTS =
  'river stone harbor light winter field copper garden summer market silver forest bridge night paper glass north cloud iron tower'.split(
    ' ',
  )
const BACKS =
  'house road water keeper maker song line wood yard stream gate wheel board smith point land ship work bell path'.split(
    ' ',
  )
const COMMON = [...FRONTS, ...BACKS]
const TOPICS = FRONTS.flatMap((front) => BACKS.map((back) => front + back))

/** Of a list, the first ones far more often than the last ones. */
const skewed = (random: () => number, words: readonly string[]) =>
  words[Math.floor(words.length * random() ** 2)] ?? ''

/**
 * Makes `bench.items`: a mixture of 200 Gaussians, which all tenants share, with a text of the topic's words
 * and common ones in turn. Seeded, but for the ids. Vectors are of half precision from the start, and
 * so are the questions: nobody's answer differs by rounding.
 */
export async function makeItems(
  sql: Sql,
  db: Database,
  { dimensions, sizes, wordsPerText }: Shape,
): Promise<Slice[]> {
  await sql.unsafe(`
    create schema if not exists bench;
    drop table if exists bench.items;
    create table bench.items (
      position integer primary key, organization_id uuid not null, id uuid not null,
      content text not null, embedding public.halfvec(${dimensions}) not null)`)
  const slices: Slice[] = []
  let from = 0
  for (const size of sizes) {
    slices.push({ scope: await makeScope(db), from, size })
    from += size
  }
  await addItems(sql, { dimensions, wordsPerText }, slices)
  await sql.unsafe('create index on bench.items (organization_id)')
  return slices
}

export async function addItems(
  sql: Sql,
  { dimensions, wordsPerText }: Pick<Shape, 'dimensions' | 'wordsPerText'>,
  slices: readonly Slice[],
): Promise<void> {
  const clusters = Array.from({ length: CLUSTERS }, (_, seed) => {
    const random = randomOf(seed + 1)
    const words = Array.from({ length: 40 }, () => skewed(random, TOPICS))
    return { centre: direction(random, dimensions), words }
  })
  function* lines() {
    for (const { scope, from, size } of slices) {
      for (let position = from; position < from + size; position += 1) {
        const random = randomOf(1_000_003 + position)
        const cluster = clusters[Math.floor(random() * CLUSTERS)]
        const { centre = [], words = [] } = cluster ?? {}
        const text = Array.from({ length: wordsPerText }, (_, at) =>
          skewed(random, at % 2 === 0 ? words : COMMON),
        ).join(' ')
        const vector = near(centre, direction(random, dimensions), 0.8).join(',')
        yield `${position}\t${scope.organizationId}\t${uuidV7()}\t${text}\t[${vector}]\n`
      }
    }
  }
  const copy = await sql`copy bench.items from stdin`.writable()
  await pipeline(Readable.from(lines()), copy)
  await sql.unsafe('vacuum analyze bench.items')
}

/** Asks near an item of the tenants, in turn, and finds the ten nearest by an exact scan. */
export async function makeQuestions(
  sql: Sql,
  slices: readonly Slice[],
  { count, limit }: { count: number; limit: number },
): Promise<Question[]> {
  const questions: Question[] = []
  for (let at = 0; at < count; at += 1) {
    const slice = slices[at % slices.length]
    if (!slice) break
    const random = randomOf(7_000_003 + at * 31 + slice.from)
    const position = slice.from + Math.floor(random() * slice.size)
    const [item] = await sql<{ embedding: string; content: string }[]>`
      select embedding::text, content from bench.items where position = ${position}`
    const stored: number[] = JSON.parse(item?.embedding ?? '[]')
    const asked = near(stored, direction(random, stored.length), 0.3)
    const [half] = await sql<{ vector: string }[]>`
      select ${JSON.stringify(asked)}::public.halfvec::text as vector`
    const vector: number[] = JSON.parse(half?.vector ?? '[]')
    const [topic = '', common = ''] = item?.content.split(' ') ?? []
    const nearest = await sql<{ id: string }[]>`
      select id from bench.items where organization_id = ${slice.scope.organizationId}
      order by embedding operator(public.<=>) ${JSON.stringify(vector)}::public.halfvec limit ${limit}`
    const ids = nearest.map(({ id }) => id)
    questions.push({ slice, vector, text: `${topic} ${common}`, nearest: ids })
  }
  return questions
}
