import { type Facet, keyOf } from './catalog.ts'

/** In which order facets are made, where none needs the other. */
const KINDS = [
  'role',
  'schema',
  'extension',
  'collation',
  'enum',
  'composite type',
  'domain',
  'domain default',
  'domain not null',
  'domain constraint',
  'range',
  'sequence',
  'table',
  'column',
  'owned by',
  'inheritance',
  'default',
  'not null',
  'identity',
  'storage',
  'compression',
  'statistics target',
  'column options',
  'function',
  'aggregate',
  'view',
  'materialized view',
  'constraint',
  'index',
  'clustering',
  'replica identity',
  'options',
  'row security',
  'forced row security',
  'policy',
  'trigger',
  'trigger state',
  'rule',
  'statistics',
  'comment',
  'right',
  'revoked right',
  'owner',
  'default right',
  'revoked default right',
]
const RANKS = new Map(KINDS.map((kind, rank) => [kind, rank]))

const rankOf = ({ kind }: Facet) => RANKS.get(kind) ?? KINDS.length

/**
 * The facets in an order in which each comes after what it needs. `within` names the facet that one is
 * made or dropped with; what it needs, that one needs.
 */
export function inOrder(
  facets: Iterable<Facet>,
  within: (facet: Facet) => string | undefined,
): Facet[] {
  const nodes = new Map([...facets].map((facet) => [keyOf(facet), facet]))
  const needs = new Map<string, Set<string>>()
  for (const facet of nodes.values()) {
    // Added to itself as well, and to whatever it is made with, which may be within another.
    for (let at: string | undefined = keyOf(facet); at; at = withinOf(nodes.get(at), within)) {
      const known = needs.get(at) ?? new Set()
      for (const key of facet.needs) known.add(key)
      needs.set(at, known)
    }
  }
  const sorted = [...nodes.values()].sort(
    (a, b) => rankOf(a) - rankOf(b) || (keyOf(a) < keyOf(b) ? -1 : 1),
  )
  const done = new Set<string>()
  const ordered: Facet[] = []
  const visit = (facet: Facet) => {
    const key = keyOf(facet)
    if (done.has(key)) return
    done.add(key)
    for (const needed of needs.get(key) ?? []) {
      const node = nodes.get(needed)
      if (node) visit(node)
    }
    ordered.push(facet)
  }
  for (const facet of sorted) visit(facet)
  return ordered
}

const withinOf = (facet: Facet | undefined, within: (facet: Facet) => string | undefined) =>
  facet && within(facet)

/** Kinds that hold rows or positions, and the names that they are found by: never dropped to be made anew. */
const KEPT = new Set(['table', 'schema', 'extension', 'role', 'sequence', 'enum', 'domain'])

const isPlainColumn = ({ kind, shape }: Facet) => kind === 'column' && shape === ''

/** What Postgres does not carry over when a column's type changes. */
const ASIDE = new Set([
  'view',
  'materialized view',
  'policy',
  'trigger',
  'rule',
  'default',
  'function',
  'aggregate',
  'storage',
  'compression',
])

/**
 * What has to stand aside while facets are dropped or get another type, each with the keys of those for
 * whose sake. Not among them: what is a `seed` that is dropped itself.
 */
export function standingAside(
  facets: ReadonlyMap<string, Facet>,
  seeds: ReadonlyMap<string, 'drop' | 'column' | 'type'>,
  isGoing: (key: string) => boolean,
): Map<string, Set<string>> {
  const dependents = new Map<string, Facet[]>()
  for (const facet of facets.values()) {
    for (const key of facet.needs) {
      const list = dependents.get(key) ?? []
      dependents.set(key, list)
      list.push(facet)
    }
  }
  const aside = new Map<string, Set<string>>()
  const visited = new Set<string>()
  const spread = (key: string, how: 'drop' | 'column' | 'type', cause: string) => {
    for (const dependent of dependents.get(key) ?? []) {
      const found = keyOf(dependent)
      if (isPlainColumn(dependent)) {
        if (how === 'type') spread(found, 'column', cause)
        continue
      }
      if (KEPT.has(dependent.kind)) continue
      if (how === 'column' && !ASIDE.has(dependent.kind) && dependent.kind !== 'column') continue
      if (visited.has(`${found}\n${cause}`)) continue
      visited.add(`${found}\n${cause}`)
      if (!isGoing(found)) aside.set(found, (aside.get(found) ?? new Set()).add(cause))
      spread(found, 'drop', cause)
    }
  }
  for (const [key, how] of seeds) spread(key, how, key)
  return aside
}
