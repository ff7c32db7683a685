import type { Database } from '../../database.ts'
import { type Catalog, type Facet, keyOf, readCatalog } from './catalog.ts'
import { compareCatalogs, type Difference } from './compare.ts'
import { type OperationalObjects, operationalObjects } from './operational.ts'
import { type ScratchOptions, withScratch } from './scratch.ts'

export interface VerifyOptions extends ScratchOptions {
  /** Makes the declared state in an empty database. */
  build: (scratch: Database) => Promise<void>
  /**
   * What is not compared: names of Postgres schemas, and patterns of a kind and a name, such as
   * `index app.tmp_*`, in which `*` stands for anything.
   */
  ignore?: readonly string[]
  /** `declared`: only the Postgres schemas that something is declared in; all of the database unless said. */
  schemas?: 'all' | 'declared'
}

export interface Verification {
  /** Whether the database is as declared. */
  equal: boolean
  /** Their mends, from the first to the last, are one script. */
  differences: Difference[]
  /** What is made while the database is used, and expected. */
  operational: OperationalObjects[]
}

/**
 * Compares a database, object by object, with what is declared, which is built in a scratch database of
 * the same major version. Writes nothing into `db`.
 *
 * @throws {ScratchError} where no such database can be made; and what `build` throws.
 */
export async function verify(
  db: Database,
  { build, ignore = [], schemas = 'all', ...scratch }: VerifyOptions,
): Promise<Verification> {
  // Before the scratch: building it may make roles, which belong to all databases of a server.
  const found = without(await readCatalog(db), ignore)
  const declared = without(await withScratch(db, build, readCatalog, scratch), ignore)
  const live = schemas === 'all' ? found : within(found, declared)
  const differences = compareCatalogs(live, declared)
  return {
    equal: differences.length === 0,
    differences,
    operational: operationalObjects(live, declared),
  }
}

/** What is in the schemas in which something is declared, and what is in none. */
function within(live: Catalog, declared: Catalog): Catalog {
  const isRoot = ({ kind, parent }: Facet) => kind !== 'schema' && parent === undefined
  const spaces = new Set([...declared.facets.values()].filter(isRoot).map(({ space }) => space))
  const isIn = ([key, { space, kind }]: [string, Facet]) =>
    declared.facets.has(key) ||
    (kind !== 'extension' && kind !== 'schema' && (space === undefined || spaces.has(space)))
  return { ...live, facets: new Map([...live.facets].filter(isIn)) }
}

function without(catalog: Catalog, ignore: readonly string[]): Catalog {
  const patterns = ignore.map(
    (text) =>
      new RegExp(`^${text.replace(/[\\^$.|?+()[\]{}]/g, '\\$&').replaceAll('*', '.*')}$`, 's'),
  )
  const isIgnored = (...names: (string | undefined)[]) =>
    names.some((name) => name !== undefined && patterns.some((pattern) => pattern.test(name)))
  const isOut = (key: string): boolean => {
    const facet = catalog.facets.get(key)
    return isIgnored(key, facet?.space) || (facet?.parent !== undefined && isOut(facet.parent))
  }
  const facets = [...catalog.facets].filter(([key]) => !isOut(key))
  const partitions = catalog.partitions.filter(
    ({ name }) => !isIgnored(keyOf({ kind: 'partition', name })),
  )
  return { ...catalog, facets: new Map(facets), partitions }
}
