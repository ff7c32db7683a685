import { type Catalog, type Facet, identifier, keyOf } from './catalog.ts'
import { type Change, changeInPlace } from './mend.ts'
import { comparePartitions } from './operational.ts'
import { inOrder, standingAside } from './schedule.ts'

/** Something that a database has in another way than it is declared. */
export interface Difference {
  kind: string
  name: string
  change: 'missing' | 'extra' | 'different'
  /** Its definition in the database; absent if it is missing there. */
  live?: string
  /** Its declared definition; absent if it is extra. */
  declared?: string
  /** The SQL that mends it, statement by statement; empty where what it is a part of is mended. */
  mend: string[]
  /** Rows, or the position of a sequence, go with the mend. */
  loses?: true
  /** Why there is no mend, or what it needs. */
  note?: string
  /** Key (kind and name) of the difference that it is a part of: a whole table that is missing or extra. */
  within?: string
}

/** Kinds that are dropped last, when nothing needs them any more. */
const LATE = new Set([
  'role',
  'schema',
  'extension',
  'collation',
  'enum',
  'composite type',
  'domain',
  'range',
  'sequence',
  'table',
  'column',
])
/** Kinds of which no two may have one name. */
const NAMED = ['table', 'view', 'materialized view', 'sequence', 'composite type', 'enum', 'domain']
/** What ADD COLUMN says with the column, besides NOT NULL. */
const WITH_COLUMN = new Set(['default', 'identity'])

/**
 * Compares two catalogs of one major version of Postgres. The mends, from the first difference to the
 * last, are one script: run as a whole, it makes the live database the declared one.
 */
export function compareCatalogs(live: Catalog, declared: Catalog): Difference[] {
  const [here, there] = [wholes(live), wholes(declared)]
  const plan = makePlan({ ...live, facets: here }, { ...declared, facets: there })
  const differences = schedule(plan)
  const found = [...differences, ...comparePartitions(live, declared)]
  return found.map((difference) => rename(forOwner(difference, live, declared)))
}

const wholes = ({ facets }: Catalog) =>
  new Map([...facets].filter(([, { partition }]) => partition === undefined))

interface Plan {
  here: ReadonlyMap<string, Facet>
  there: ReadonlyMap<string, Facet>
  missing: Set<string>
  extra: Set<string>
  /** Of what differs: how it is changed where it stands. */
  changes: Map<string, Change>
  /** What is dropped and made anew, with the differences for whose sake. */
  aside: Map<string, Set<string>>
}

function makePlan(live: Catalog, declared: Catalog): Plan {
  const [here, there] = [live.facets, declared.facets]
  const missing = new Set([...there.keys()].filter((key) => !here.has(key)))
  const extra = new Set([...here.keys()].filter((key) => !there.has(key)))
  const changes = new Map<string, Change>()
  const seeds = new Map<string, 'drop' | 'column' | 'type'>()
  for (const key of extra) seeds.set(key, 'drop')
  const rebuilt: string[] = []
  for (const [key, facet] of here) {
    const wanted = there.get(key)
    if (!wanted || wanted.definition === facet.definition) continue
    const change = changeInPlace(facet, wanted, live)
    if (change) changes.set(key, change)
    else rebuilt.push(key)
    if (change?.aside) seeds.set(key, change.aside)
    if (!change) seeds.set(key, 'drop')
  }
  const aside = standingAside(here, seeds, (key) => extra.has(key))
  for (const key of rebuilt) aside.set(key, (aside.get(key) ?? new Set()).add(key))
  const plan = { here, there, missing, extra, changes, aside }
  suspendDefaultRights(plan)
  return plan
}

const TARGETS: Record<string, string> = {
  table: 'tables',
  view: 'tables',
  'materialized view': 'tables',
  sequence: 'sequences',
  function: 'functions',
  aggregate: 'functions',
  enum: 'types',
  domain: 'types',
  range: 'types',
  'composite type': 'types',
  schema: 'schemas',
}

/** What is made anew has the rights that are declared for it, and not what default privileges would add. */
function suspendDefaultRights({ here, there, missing, changes, aside }: Plan): void {
  for (const [key, right] of here) {
    if (!right.kind.endsWith('default right') || !there.has(key)) continue
    const isMet = (facet: Facet | undefined) =>
      facet !== undefined &&
      right.name.includes(` on ${TARGETS[facet.kind]} `) &&
      (right.space === undefined || right.space === facet.space)
    const causes = new Set<string>()
    for (const made of missing) if (isMet(there.get(made))) causes.add(made)
    for (const [made, change] of changes) {
      if (change.aside === 'type' && isMet(there.get(made))) causes.add(made)
    }
    for (const [made, reasons] of aside) {
      if (isMet(there.get(made))) for (const reason of reasons) causes.add(reason)
    }
    if (causes.size > 0) aside.set(key, causes)
  }
}

/** What is dropped first, in order; and what last. What vanishes with its parent is in neither. */
function drops({ here, there, missing, extra, aside }: Plan) {
  const isGoing = (key: string | undefined): key is string =>
    key !== undefined && (extra.has(key) || aside.has(key))
  const going = [...here.values()].filter((facet) => isGoing(keyOf(facet)))
  const isLate = (facet: Facet) =>
    LATE.has(facet.kind) &&
    extra.has(keyOf(facet)) &&
    // A table in whose place a view is to be goes before the view comes.
    !NAMED.some((kind) => kind !== facet.kind && missing.has(`${kind} ${facet.name}`))
  const withParent = (facet: Facet) => {
    const parent = facet.parent
    // The foreign keys of two tables may go round in a circle.
    if (facet.kind === 'constraint' && facet.definition.startsWith('FOREIGN KEY')) return
    return isGoing(parent) ? parent : undefined
  }
  const ordered = inOrder(going, withParent).reverse()
  const early: Facet[] = []
  const late: Facet[] = []
  const isEarly = new Set<string>()
  const goesEarly = (facet: Facet): boolean => {
    for (let at: Facet | undefined = facet; at; at = at.parent ? here.get(at.parent) : undefined) {
      if (!withParent(at)) return !isLate(at)
    }
    return false
  }
  for (const facet of going) if (goesEarly(facet)) isEarly.add(keyOf(facet))
  for (const facet of ordered) {
    const parent = withParent(facet)
    if (!parent) (isLate(facet) ? late : early).push(facet)
    // What vanishes late, and needs what goes early, goes before that.
    else if (!isEarly.has(keyOf(facet)) && needsAny(facet, isEarly)) early.push(facet)
  }
  return { early, late, there }
}

const needsAny = ({ needs }: Facet, keys: ReadonlySet<string>) =>
  [...needs].some((key) => keys.has(key))

/** What is made or changed, in order, each with its statements: none where its parent has it already. */
function makes({ here, there, missing, changes, aside }: Plan) {
  const isNew = (key: string | undefined): key is string =>
    key !== undefined && (missing.has(key) || (aside.has(key) && here.get(key)?.kind === 'column'))
  const withParent = (facet: Facet): string | undefined => {
    const parent = facet.parent
    if (!parent || !isNew(parent)) return
    if (facet.kind === 'column') return parent
    if (facet.kind === 'not null') return parent
    const column = there.get(parent)
    return WITH_COLUMN.has(facet.kind) && !isNew(column?.parent) ? parent : undefined
  }
  const nodes = [...there.values()].filter((facet) => {
    const key = keyOf(facet)
    return missing.has(key) || changes.has(key) || aside.has(key)
  })
  return inOrder(nodes, withParent).map((facet) => {
    const key = keyOf(facet)
    const change = aside.has(key) ? undefined : changes.get(key)
    const statements = change ? change.statements : withParent(facet) ? [] : [facet.create]
    return { facet, key, statements }
  })
}

/** Puts the statements to the differences, so that each difference says all that mends it. */
function schedule(plan: Plan): Difference[] {
  const { here, there, missing, extra, changes, aside } = plan
  const { early, late } = drops(plan)
  const made = makes(plan)
  const isDifference = (key: string) =>
    missing.has(key) || changes.has(key) || here.get(key)?.definition !== there.get(key)?.definition
  const ours = made.filter(({ key }) => isDifference(key)).map(({ key }) => key)
  const dropped = new Set([...early, ...late].map(keyOf))
  const keys = [
    ...new Set([
      ...early.map(keyOf).filter((key) => extra.has(key)),
      ...ours,
      ...late.map(keyOf),
      ...extra,
    ]),
  ]
  const places = new Map(keys.map((key, at) => [key, at]))
  const mends: string[][] = keys.map(() => [])
  const put = (place: number, statements: string[]) => mends[place]?.push(...statements)
  const first = (causes: Iterable<string>) =>
    Math.min(...[...causes].map((cause) => places.get(cause) ?? 0))

  for (const facet of early) {
    const causes = aside.get(keyOf(facet))
    put(first(causes ?? [keyOf(facet)]), [facet.drop])
  }
  // What stood aside comes back as soon as all that it waited for is there.
  const placed = new Map<string, number>()
  for (const { facet, key, statements } of made) {
    const own = places.get(key)
    const waits = [...(aside.get(key) ?? [])].filter((cause) => !extra.has(cause))
    const needed = [...facet.needs].map((need) => placed.get(need) ?? 0)
    const causes = waits.map((cause) => places.get(cause) ?? 0)
    const place = own ?? Math.max(first(aside.get(key) ?? []), ...needed, ...causes)
    placed.set(key, place)
    put(place, statements)
  }
  for (const facet of late) put(places.get(keyOf(facet)) ?? 0, [facet.drop])

  return keys.map((key, at) => {
    const [live, declared] = [here.get(key), there.get(key)]
    const facet = declared ?? live
    if (!facet) throw new RangeError(`${key} is on neither side`)
    const change = aside.has(key) ? undefined : changes.get(key)
    const outer = facet.parent
    const isPart = outer && (missing.has(outer) ? missing.has(key) : extra.has(outer))
    const note = change?.note ?? noteOf(live, declared, outer !== undefined && missing.has(outer))
    return {
      kind: facet.kind,
      name: facet.name,
      change: !live ? 'missing' : !declared ? 'extra' : 'different',
      ...(live && { live: live.definition }),
      ...(declared && { declared: declared.definition }),
      mend: mends[at] ?? [],
      ...((change?.loses || loses(live, declared, dropped.has(key))) && { loses: true as const }),
      ...(note && { note }),
      ...(isPart && { within: outer }),
    }
  })
}

const HOLDS = new Set(['table', 'column', 'sequence'])

/** A computed column loses nothing but the time to compute it; a plain one that is to be computed does. */
function loses(live: Facet | undefined, declared: Facet | undefined, isDropped: boolean): boolean {
  if (!live || !isDropped || !HOLDS.has(live.kind)) return false
  return live.kind !== 'column' || (live.shape === '' && declared?.shape !== '')
}

function noteOf(live: Facet | undefined, declared: Facet | undefined, isNew: boolean) {
  if (live || !declared || declared.kind !== 'column' || isNew) return
  const isFilled = /^alter table .* (default|generated) /s.test(declared.create)
  return / not null$/.test(declared.create) && !isFilled
    ? 'fails while the table has rows: add it without NOT NULL, fill it, and verify again'
    : undefined
}

/** The declared database may be another role's: what it says of its own owner is meant for this one's. */
function forOwner(difference: Difference, live: Catalog, declared: Catalog): Difference {
  if (live.principal === declared.principal) return difference
  const mend = difference.mend.map((statement) =>
    statement.replace(
      /^(alter default privileges for role )("(?:[^"]|"")*"|\S+)/,
      (text, alter: string, role: string) =>
        role === identifier(declared.principal) ? alter + identifier(live.principal) : text,
    ),
  )
  return { ...difference, mend }
}

/** The absence of a right that Postgres gives by itself is said as the right. */
function rename(difference: Difference): Difference {
  const { kind, change, within, live: _, declared: __, ...rest } = difference
  if (!kind.startsWith('revoked ') || within) return difference
  const right = { ...rest, kind: kind.slice('revoked '.length) }
  return change === 'missing'
    ? { ...right, change: 'extra', live: 'granted' }
    : { ...right, change: 'missing', declared: 'granted' }
}
