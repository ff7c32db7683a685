import { type Catalog, type Facet, keyOf, type Partition } from './catalog.ts'
import type { Difference } from './compare.ts'

/** The partitions of a table: made while the database is used, and expected. */
export interface OperationalObjects {
  /** The partitioned table, such as `costs.usage_events`. */
  parent: string
  partitions: number
}

/** Counts the partitions of declared tables, by the name of the table. */
export function operationalObjects(live: Catalog, declared: Catalog): OperationalObjects[] {
  const counts = new Map<string, number>()
  for (const { root } of live.partitions) {
    if (isDeclared(declared, root)) counts.set(root, (counts.get(root) ?? 0) + 1)
  }
  return [...counts]
    .map(([parent, partitions]) => ({ parent, partitions }))
    .sort((a, b) => (a.parent < b.parent ? -1 : 1))
}

const isDeclared = ({ facets }: Catalog, table: string) => facets.has(`table ${table}`)

/** What each partition of a space has beside its parent's: the dimension, and an HNSW index for it. */
const SPACES = {
  root: 'search.embeddings',
  constraint: /^CHECK \(\(public\.vector_dims\(embedding\) = \d+\)\)$/,
  index: / USING hnsw \(\(\(embedding\)::public\.halfvec\(\d+\)\) public\.halfvec_\w+_ops\)$/,
  note: 'have buildSpaceIndex build it, or drop the partition and have search.create_partition(space) make it anew',
}

/**
 * What partitions have that they do not have from their parent, and should not; or lack. What they should
 * have is what the declared partition of the same name has, or otherwise any of the same table.
 */
export function comparePartitions(live: Catalog, declared: Catalog): Difference[] {
  const [here, there] = [byPartition(live), byPartition(declared)]
  return live.partitions
    .filter(({ root }) => isDeclared(declared, root))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((partition) => {
      const model = modelOf(partition, declared)
      const wanted = new Map(
        (model ? (there.get(model.name) ?? []) : []).map((facet) => {
          const own = renamed(facet, model?.name ?? '', partition.name)
          return [keyOf(own), own] as const
        }),
      )
      return comparePartition(partition, here.get(partition.name) ?? [], wanted)
    })
}

function byPartition({ facets }: Catalog): Map<string, Facet[]> {
  const found = new Map<string, Facet[]>()
  for (const facet of facets.values()) {
    if (facet.partition === undefined) continue
    found.set(facet.partition, [...(found.get(facet.partition) ?? []), facet])
  }
  return found
}

const modelOf = ({ name, root }: Partition, { partitions }: Catalog) =>
  partitions.find((one) => one.name === name) ?? partitions.find((one) => one.root === root)

function renamed(facet: Facet, from: string, to: string): Facet {
  const bare = (name: string) => name.slice(name.lastIndexOf('.') + 1).replaceAll('"', '')
  const move = (text: string) => text.replaceAll(from, to).replaceAll(bare(from), bare(to))
  return {
    ...facet,
    name: move(facet.name),
    definition: move(facet.definition),
    create: move(facet.create),
    drop: move(facet.drop),
  }
}

function comparePartition(
  { name, root }: Partition,
  facets: readonly Facet[],
  wanted: ReadonlyMap<string, Facet>,
): Difference[] {
  const isSpace = root === SPACES.root
  const isOwn = ({ kind, definition }: Facet) =>
    (kind === 'constraint' && SPACES.constraint.test(definition)) ||
    (kind === 'index' && SPACES.index.test(definition))
  const differences: Difference[] = []
  for (const facet of facets) {
    const declared = wanted.get(keyOf(facet))
    if (declared?.definition === facet.definition || (!declared && isSpace && isOwn(facet)))
      continue
    const { kind, name, definition, drop } = facet
    differences.push({
      kind,
      name,
      change: declared ? 'different' : 'extra',
      live: definition,
      ...(declared && { declared: declared.definition }),
      mend: declared ? [drop, declared.create] : [drop],
    })
  }
  const has = new Set(facets.map(keyOf))
  for (const [key, { kind, name, definition, create }] of wanted) {
    if (has.has(key) || (isSpace && isOwn({ kind, definition } as Facet))) continue
    differences.push({ kind, name, change: 'missing', declared: definition, mend: [create] })
  }
  if (isSpace && !facets.some((facet) => facet.kind === 'index' && isOwn(facet))) {
    const index = `${name}_hnsw`
    differences.push({
      kind: 'index',
      name: index,
      change: 'missing',
      declared: 'an HNSW index of the dimension and distance of the space',
      mend: [],
      note: SPACES.note,
    })
  }
  return differences
}
