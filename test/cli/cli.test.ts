import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plinth-cli-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

interface Result {
  code: number | null
  out: string
  err: string
}

/** Runs the command as a process of its own, from its sources; `until` interrupts it when it says so. */
function plinth(args: string[], until?: RegExp): Promise<Result> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...args], {
    env: { ...process.env, NO_COLOR: '1' },
  })
  let [out, err, isInterrupted] = ['', '', false]
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  child.stderr.on('data', (chunk) => {
    err += chunk
    if (isInterrupted || !until?.test(err)) return
    isInterrupted = true
    child.kill('SIGINT')
  })
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, out, err })))
}

async function corpus(name: string, files: Record<string, string>): Promise<string> {
  const path = join(folder, name)
  for (const [file, text] of Object.entries(files)) {
    await mkdir(join(path, file, '..'), { recursive: true })
    await writeFile(join(path, file), text)
  }
  return path
}

describe('plinth demo', () => {
  test('indexes a folder, answers, and embeds only what has changed the second time', async () => {
    const docs = await corpus('notes', {
      'lamp.md': '# The lamp\n\nThe copper lantern hangs over the harbour bridge.',
      'deep/bread.txt': 'Bread is baked at night in the old market hall.',
      'bad.txt': 'a\0b',
      'node_modules/x.md': 'not ours',
      'image.png': 'no text',
    })
    const data = join(folder, 'data')
    const demo = async (...args: string[]) => {
      const { code, out, err } = await plinth(['demo', docs, '--data', data, '--json', ...args])
      expect({ code, err }).toEqual({ code: 0, err: '' })
      return JSON.parse(out)
    }

    const first = await demo('--query', 'where is the lantern?', '--query', 'baking bread')
    expect(first.index).toMatchObject({
      ...{ files: 3, changed: 2, unchanged: 0, embedded: 2 },
      skipped: [{ name: 'bad.txt', reason: 'holds NUL characters' }],
    })
    expect(first.answers).toMatchObject([
      {
        matches: [
          {
            rank: 1,
            file: 'lamp.md',
            snippet: expect.arrayContaining([{ text: 'lantern', isMatch: true }]),
          },
          {},
        ],
      },
      { matches: [{ rank: 1, file: 'deep/bread.txt' }, {}] },
    ])
    expect(first.spend).toMatchObject([{ calls: 5, costNanos: '0' }])
    const [{ tokens, whatIfNanos }] = first.spend
    // The list price of text-embedding-3-small: $0.02 per million tokens.
    expect(whatIfNanos['text-embedding-3-small']).toBe(String(tokens * 20))
    expect(first.otherOrganization.matches).toBe(0)
    expect(first.activity.map(({ action }: { action: string }) => action)).toContain(
      'document.indexed',
    )

    await utimes(join(docs, 'lamp.md'), new Date(), new Date())
    await writeFile(join(docs, 'deep/bread.txt'), 'Bread is baked at noon.')
    const second = await demo('--query', 'bread')
    expect(second.migrated).toEqual([])
    expect(second.index).toMatchObject({ changed: 1, unchanged: 1, removed: 0, embedded: 1 })

    await rm(join(docs, 'lamp.md'))
    const third = await demo('--query', 'lantern')
    expect(third.index).toMatchObject({ changed: 0, unchanged: 1, removed: 1 })
    expect(third.answers[0].matches.map(({ file }: { file: string }) => file)).toEqual([
      'deep/bread.txt',
    ])
  })

  test('is readable, and honest about the offline embedder', async () => {
    const docs = await corpus('readable', {
      'a.md': '# Harbour\n\n\u001b[31mThe harbour is closed.',
    })
    const { code, out } = await plinth(['demo', docs, '--data', join(folder, 'data')])

    expect(code).toBe(0)
    expect(out).toContain('lexical, not semantic')
    expect(out).toContain('What about Harbour?')
    expect(out).toContain('«harbour»')
    expect(out).toContain('what if')
    expect(out).not.toContain('\u001b')
    expect(out).toContain('0 matches: another organization sees nothing of it')
  })

  test('stops at Ctrl-C, and goes on from there', async () => {
    const words = ['river', 'stone', 'lamp', 'bread']
    const files = Array.from({ length: 60 }, (_, at) => [
      `f${at}.md`,
      Array.from({ length: 400 }, (_, word) => `${words[(word * at) % 4]}${word * at}`).join(' '),
    ])
    const docs = await corpus('many', Object.fromEntries(files))
    const args = ['demo', docs, '--data', join(folder, 'stopped')]

    const stopped = await plinth(args, /two organizations/)
    expect(stopped.code).toBe(130)
    expect(stopped.err).toContain('run it again')
    await expect(readFile(join(folder, 'stopped', 'lock'))).rejects.toThrow('ENOENT')

    const { code, out } = await plinth([...args, '--json'])
    const { changed, unchanged } = JSON.parse(out).index
    expect([code, changed + unchanged]).toEqual([0, 60])
  })

  test('takes an embedding model from a config file, with a space of its own', async () => {
    const docs = await corpus('configured', { 'a.md': 'The copper lantern.' })
    const config = join(folder, 'plinth.config.mjs')
    await writeFile(
      config,
      `export default { embedding: { specificationVersion: 'v3', provider: 'acme', modelId: 'tiny',
        maxEmbeddingsPerCall: 1, doEmbed: async ({ values }) => ({ usage: { tokens: 7 },
          embeddings: values.map((text) => [text.length, 1, 0]) }) } }`,
    )
    const args = ['demo', docs, '--data', join(folder, 'configured-data'), '--config', config]

    const report = JSON.parse((await plinth([...args, '--query', 'lantern', '--json'])).out)

    expect(report.embedder).toEqual({ model: 'acme/tiny', dimensions: 3, isOffline: false })
    // Of a model without a price it is not said that it cost nothing.
    expect(report.spend).toMatchObject([{ model: 'tiny', tokens: 21, costNanos: null }])
  })
})

describe('wrong input', () => {
  test.each([
    [['demo', '/nowhere']],
    [['demo', '--bogus']],
    [['demo', '--query', ' ']],
    [['demo', '--url', 'mysql://x']],
    [['demo', '--data', 'a', '--url', 'postgres://x']],
    [['demo', '--config', '/nowhere.ts']],
    [['migrate', '--data', 'package.json']],
    [['migrate', '--data', 'package.json/sub']],
    [['nonsense']],
    [['partitions', '--from', '2026-13']],
  ])('%j gets one clear line and exit code 2', async (args) => {
    const { code, out, err } = await plinth(args)

    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).toMatch(/^error: .+\n$/)
  })

  test('a server that is not there is a failure, told without the password', async () => {
    const { code, err } = await plinth(['migrate', '--url', 'postgres://u:geheim@127.0.0.1:1/x'])

    expect(code).toBe(1)
    expect(err).toMatch(/^error: .*127\.0\.0\.1:1.*\n$/)
    expect(err).not.toContain('geheim')
  })
})

test('plinth migrate and plinth partitions say what they did', async () => {
  const target = ['--data', join(folder, 'migrated')]

  expect((await plinth(['migrate', ...target, '--json'])).out).toMatch(
    /^\{"applied":\["\d{14}_init"/,
  )
  expect((await plinth(['migrate', ...target])).out).toBe('nothing to apply\n')
  const made = JSON.parse(
    (await plinth(['partitions', '--from', '2020-01', '--to', '2020-03', ...target, '--json'])).out,
  )
  expect(made.made).toContainEqual({ table: 'activity.activity_logs', made: 3 })
  expect((await plinth(['--help'])).out).toContain('partitions')
})
