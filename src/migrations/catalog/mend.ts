import { quoted } from '../advice/names.ts'
import { type Catalog, type Facet, keyOf } from './catalog.ts'

/** How something that differs is changed where it stands. */
export interface Change {
  statements: string[]
  /** Of a column or a type whose type changes: what depends on it stands aside meanwhile. */
  aside?: 'column' | 'type'
  loses?: boolean
  note?: string
}

/** Kinds whose `create` sets the new value over the old one. */
const SET = new Set([
  'comment',
  'default',
  'storage',
  'compression',
  'statistics target',
  'replica identity',
  'clustering',
  'owner',
  'owned by',
  'trigger state',
  'domain default',
  'domain not null',
])

/** Kinds of which nothing stays but what the drop leaves: no object goes. */
const RESET = new Set(['options', 'column options', 'right', 'default right'])

const NOT_VALID = ' NOT VALID'

/** The change of a live facet into the declared one, or undefined where it has to be dropped and made anew. */
export function changeInPlace(live: Facet, declared: Facet, catalog: Catalog): Change | undefined {
  const { kind, name } = live
  if (SET.has(kind)) return { statements: [declared.create] }
  if (RESET.has(kind)) return { statements: [live.drop, declared.create] }
  switch (kind) {
    case 'role': {
      const has = new Set(live.definition.split(' '))
      const words = declared.definition.split(' ').filter((word) => !has.has(word))
      return { statements: [`alter role ${name} ${words.join(' ')}`] }
    }
    case 'extension':
      return { statements: changeExtension(live, declared) }
    case 'sequence':
      return { statements: [`alter sequence ${name} ${declared.definition}`] }
    case 'identity':
      return { statements: [changeIdentity(declared)] }
    case 'not null':
      return { statements: validateNotNull(live, declared) }
    case 'constraint':
    case 'domain constraint':
      return live.definition === declared.definition + NOT_VALID
        ? { statements: [declared.shape] }
        : undefined
    case 'function':
      return live.shape === declared.shape ? { statements: [declared.create] } : undefined
    case 'view':
      return `${declared.shape}, `.startsWith(`${live.shape}, `)
        ? { statements: [declared.create] }
        : undefined
    case 'table':
      return changeTable(live, declared)
    case 'column':
      return changeColumn(live, declared, catalog)
    case 'enum':
      return changeEnum(live, declared) ?? retype(live, declared, catalog)
    case 'range':
      return changeRange(live, catalog)
    case 'domain':
    case 'composite type':
      return retype(live, declared, catalog)
    default:
      return undefined
  }
}

function changeExtension(live: Facet, declared: Facet): string[] {
  const parts = /^schema (.*) version (.*)$/s
  const [, schema, version] = parts.exec(declared.definition) ?? []
  const [, oldSchema, oldVersion] = parts.exec(live.definition) ?? []
  return [
    ...(schema === oldSchema ? [] : [`alter extension ${live.name} set schema ${schema}`]),
    ...(version === oldVersion ? [] : [`alter extension ${live.name} update to ${version}`]),
  ]
}

/** In place, since an identity that is made anew would count from the beginning. */
const changeIdentity = ({ create }: Facet) =>
  create.replace(
    / add (generated (?:always|by default)) as identity \((.*)\)$/,
    (_, generated: string, series: string) =>
      ` set ${generated} set ${series.replace(/ (?=minvalue|maxvalue|start|cache|no cycle|cycle)(?<!no\s)/g, ' set ')}`,
  )

/** From Postgres 18 on, NOT NULL may be one that was not checked. */
const validateNotNull = (live: Facet, declared: Facet) =>
  live.definition.endsWith('not valid')
    ? [`${tableOf(live)} validate constraint ${quoted(live.shape)}`]
    : [live.drop, declared.create]

const tableOf = ({ create }: Facet) => create.slice(0, create.lastIndexOf(' alter column '))

function changeTable(live: Facet, declared: Facet): Change {
  if (live.shape !== declared.shape) {
    const note =
      'how a table is partitioned is fixed when it is made; make a new table and move the rows'
    return { statements: [], note }
  }
  const isLogged = declared.definition.startsWith('table')
  return { statements: [`alter table ${live.name} set ${isLogged ? 'logged' : 'unlogged'}`] }
}

const isPlain = ({ shape }: Facet) => shape === ''

function changeColumn(live: Facet, declared: Facet, catalog: Catalog): Change | undefined {
  // What is computed is computed anew.
  if (!isPlain(declared)) return undefined
  const alter = alterColumn(live)
  const drop = isPlain(live) ? [] : [`${alter} drop expression`]
  const old = live.definition.replace(/ generated always as .*$/s, '')
  if (old === declared.definition) return { statements: drop }
  if (isPartitionKey(live, catalog)) {
    const note = 'the table is partitioned by it; make a new table and move the rows'
    return { statements: [], note }
  }
  return {
    statements: [
      ...drop,
      `${alter} type ${declared.definition} using ${cast(live, old, declared)}`,
    ],
    aside: 'column',
    loses: !isWider(old, declared.definition),
  }
}

const alterColumn = ({ drop }: Facet) => drop.replace(' drop column ', ' alter column ')
const attributeOf = ({ drop }: Facet) => drop.slice(drop.indexOf(' drop column ') + 13)

/** By way of text where one of the types is not Postgres' own: text is what any can be read from. */
function cast(column: Facet, from: string, { definition }: Facet): string {
  const [to = ''] = definition.split(' collate ')
  const text = from.includes('.') !== to.includes('.') || from.includes('.') ? '::text' : ''
  return `${attributeOf(column)}${text}::${to}`
}

const WIDER: Record<string, RegExp> = {
  smallint: /^(integer|bigint|numeric|real|double precision|text)$/,
  integer: /^(bigint|numeric|double precision|text)$/,
  bigint: /^(numeric|text)$/,
  real: /^(double precision|text)$/,
  uuid: /^text$/,
  date: /^timestamp/,
}

/** Whether every value of the one type is one of the other. Of collations, each keeps the text. */
function isWider(from: string, to: string): boolean {
  const [old = '', type = ''] = [from, to].map((text) => text.split(' collate ')[0])
  if (old === type || WIDER[old]?.test(type)) return true
  const length = /^character varying\((\d+)\)$/
  const [oldLength, newLength] = [length.exec(old)?.[1], length.exec(type)?.[1]]
  if (old.startsWith('character varying') && /^(text|character varying)$/.test(type)) return true
  if (oldLength && newLength) return Number(newLength) >= Number(oldLength)
  return /^(numeric|timestamp|time|interval)\(/.test(old) && type === old.replace(/\([\d,]+\)/, '')
}

const isPartitionKey = (column: Facet, { facets }: Catalog): boolean => {
  const key = (column.parent && facets.get(column.parent)?.shape) || ''
  return key.split(/[(), ]+/).includes(attributeOf(column))
}

const labelsOf = ({ definition }: Facet): string[] => definition.match(/'(?:[^']|'')*'/g) ?? []

/** Labels that are new, or that have another name in the same place. */
function changeEnum(live: Facet, declared: Facet): Change | undefined {
  const [old, labels] = [labelsOf(live), labelsOf(declared)]
  const gone = old.filter((label) => !labels.includes(label))
  const added = labels.filter((label) => !old.includes(label))
  const alter = `alter type ${live.name}`
  if (old.length === labels.length && gone.length > 0) {
    const isRenamed = old.every((label, at) => label === labels[at] || !labels.includes(label))
    if (!isRenamed) return undefined
    return {
      statements: gone.map(
        (label) => `${alter} rename value ${label} to ${labels[old.indexOf(label)]}`,
      ),
    }
  }
  const kept = labels.filter((label) => old.includes(label))
  if (gone.length > 0 || kept.join() !== old.join()) return undefined
  return {
    statements: added.map((label) => {
      const at = labels.indexOf(label)
      const place = at > 0 ? ` after ${labels[at - 1]}` : ` before ${old[0]}`
      return `${alter} add value ${label}${old.length > 0 ? place : ''}`
    }),
    note: 'a new label can be used once the transaction that adds it is committed',
  }
}

const columnsOf = (type: Facet, { facets }: Catalog) =>
  [...facets.values()].filter(
    (facet) => facet.kind === 'column' && isPlain(facet) && facet.needs.has(keyOf(type)),
  )

/** The functions that come with a range keep its name, so that no second one can be made beside it. */
function changeRange(live: Facet, catalog: Catalog): Change | undefined {
  const [column] = columnsOf(live, catalog)
  if (!column) return undefined
  const note = `${column.name} is of that type, which Postgres cannot change; make a new type and move the column to it`
  return { statements: [], note }
}

/** A type of the same name, into which every column of the old one is read. */
function retype(live: Facet, declared: Facet, catalog: Catalog): Change {
  const columns = columnsOf(live, catalog)
  const old = live.name.replace(/(\w+)("?)$/, '$1_old$2')
  const noun = live.kind === 'domain' ? 'domain' : 'type'
  const alters = columns.map((column) => {
    const [type] = column.definition.split(' collate ')
    return `${alterColumn(column)} type ${type} using ${attributeOf(column)}::text::${type}`
  })
  return {
    statements: [
      `alter ${noun} ${live.name} rename to ${old.slice(old.indexOf('.') + 1)}`,
      declared.create,
      ...alters,
      `drop ${noun} ${old}`,
    ],
    aside: 'type',
    note: 'fails while a row holds a value that the declared type has not',
  }
}
