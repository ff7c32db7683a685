import { describe, expect, test } from 'vitest'
import { loadParser } from '../../src/migrations/advice/parse.ts'
import { readSteps } from '../../src/migrations/statements.ts'

const parser = await loadParser()

describe('the steps of a migration', () => {
  test('what Postgres’s parser cannot read is left to the server, which says why', async () => {
    for (const text of ["select 'open", 'select "open', 'select $$open', '/* open', 'foo bar']) {
      expect(readSteps(parser, text)).toEqual([{ kind: 'transaction', statements: [text] }])
    }
  })

  test('a byte order mark is no part of the first directive', async () => {
    const text = '-- plinth: concurrently\ncreate index i on public.a (n);'
    expect(readSteps(parser, `\uFEFF${text}`)).toEqual(readSteps(parser, text))
  })

  test('five megabytes of statements are read in seconds', async () => {
    const rows = Array.from(
      { length: 50_000 },
      (_, n) => `insert into public.a values (${n}); -- a row`,
    )
    const [step, ...rest] = readSteps(parser, rows.join('\n'))
    expect(rest).toEqual([])
    expect(step?.kind === 'transaction' && step.statements).toHaveLength(rows.length)
  })
})
