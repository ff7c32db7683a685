import { describe, expect, test } from 'vitest'
import { formatDifferences, formatMend } from '../../src/cli/differences.ts'
import type { Difference } from '../../src/migrations/catalog/compare.ts'

const format = (...differences: Difference[]) =>
  formatDifferences({ equal: differences.length === 0, differences, operational: [] })

const body = (changed: string) => `begin\n  one;\n  two;\n  three;\n  ${changed};\n  five;\nend\n`

describe('formatDifferences', () => {
  test('says that nothing differs, and what is expected', () => {
    const text = formatDifferences({
      equal: true,
      differences: [],
      operational: [
        { parent: 'costs.usage_events', partitions: 14 },
        { parent: 'search.embeddings', partitions: 1 },
      ],
    })
    expect(text).toBe(
      'the database is as declared\nexpected: 14 partitions of costs.usage_events\nexpected: 1 partition of search.embeddings',
    )
  })

  test('shows both sides, and the SQL', () => {
    const text = format({
      kind: 'column',
      name: 'app.notes.amount',
      change: 'different',
      live: 'bigint',
      declared: 'integer',
      mend: ['alter table app.notes alter column amount type integer using amount::integer'],
      loses: true,
      note: 'a note',
    })
    expect(text).toBe(`1 difference

column app.notes.amount differs
  live:     bigint
  declared: integer
  the mend loses data
  a note

SQL that mends it, in this order:

-- column app.notes.amount differs: LOSES DATA
alter table app.notes alter column amount type integer using amount::integer;`)
  })

  test('shows of a long body only the lines that differ', () => {
    const text = format({
      kind: 'function',
      name: 'app.f()',
      change: 'different',
      live: body('four'),
      declared: body('4'),
      mend: [],
    })
    expect(text).toBe(
      `1 difference

function app.f() differs
  - live
  + declared
  …
     two;
     three;
  -  four;
  +  4;
     five;
   end`.replace(/^ {3}(?= {2}\w|end)/gm, '   '),
    )
  })

  test('counts the parts of a whole that is missing', () => {
    const part = (kind: string, name: string, within: string): Difference => ({
      kind,
      name,
      change: 'missing',
      declared: 'text',
      mend: kind === 'not null' ? ['alter it'] : [],
      within,
    })
    const text = format(
      { kind: 'table', name: 'a.t', change: 'missing', declared: 'table', mend: ['create it'] },
      part('column', 'a.t.b', 'table a.t'),
      part('column', 'a.t.c', 'table a.t'),
      part('not null', 'a.t.c', 'column a.t.c'),
      part('policy', 'a.t.p', 'table a.t'),
      part('policy', 'a.t.q', 'table a.t'),
      part('index', 'a.i', 'table a.gone'),
    )
    expect(text).toContain(
      '2 differences\n\ntable a.t is missing\n  with 2 columns, 1 not null, 2 policies',
    )
    expect(text).toContain('index a.i is missing')
    expect(text).toContain('create it;\n-- not null a.t.c is missing\nalter it;')
  })

  test('leaves nothing to a terminal to obey', () => {
    const text = format({
      kind: 'comment',
      name: 'table app.notes',
      change: 'extra',
      live: 'red \u001b[31m\u0007',
      mend: [],
    })
    expect(text).toContain('red')
    for (const control of ['\u001b', '\u0007', '[31m']) expect(text).not.toContain(control)
  })
})

test('formatMend ends every statement once', () => {
  const mend = ['create function f() …;\n', 'select 1']
  expect(formatMend([{ kind: 'function', name: 'f()', change: 'missing', mend }])).toBe(
    '-- function f() is missing\ncreate function f() …;\nselect 1;',
  )
})
