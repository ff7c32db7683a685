import { spawn } from 'node:child_process'
import { readdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { declare, makeProject } from '../support/project.ts'

const folders: string[] = []
afterAll(async () => {
  for (const folder of folders) await rm(folder, { recursive: true })
})

const main = resolve('src/cli/main.ts')

const plinth = (cwd: string, ...args: string[]) =>
  new Promise<{ code: number | null; out: string; err: string }>((done) => {
    const child = spawn(process.execPath, ['--import', 'tsx', main, 'generate', ...args], {
      cwd,
      env: { ...process.env, NO_COLOR: '1' },
    })
    let [out, err] = ['', '']
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    child.stderr.on('data', (chunk) => {
      err += chunk
    })
    child.on('close', (code) => done({ code, out, err }))
  })

test('writes a migration, asks by flags and not by a prompt, and says when nothing is due', async () => {
  const cwd = await makeProject(folders)
  const first = await plinth(cwd, 'first', '--no-prove')
  expect(first.code).toBe(0)
  expect(first.out).toContain('CREATE TABLE "app"."posts" (')
  expect(first.out).toMatch(/wrote migrations\/\d+_first: migration\.sql, down\.sql/)
  expect(first.err).toContain('not proved: as was asked')

  const again = await plinth(cwd)
  expect(again).toMatchObject({ code: 0, out: 'nothing to generate\n' })

  await declare(cwd, "headline: text('headline').notNull()")
  const open = await plinth(cwd)
  expect(open.code).toBe(2)
  expect(open.out).toBe(
    'column app.posts.headline: --rename app.posts.title=app.posts.headline or --create app.posts.headline\n',
  )
  expect(open.err).toContain('one flag for each')
  const json = await plinth(cwd, '--json')
  expect(JSON.parse(json.out).questions).toHaveLength(1)

  const renamed = await plinth(
    cwd,
    'second',
    '--rename',
    'app.posts.title=app.posts.headline',
    '--json',
  )
  expect(renamed.code).toBe(0)
  expect(JSON.parse(renamed.out).migration.statements).toHaveLength(1)
  expect(await readdir(join(cwd, 'migrations'))).toHaveLength(2)
}, 240_000)

test.each([
  [['--rename', 'one'], /old=new/],
  [['--config', 'nowhere.ts'], /--config/],
])(
  'refuses %j',
  async (args, message) => {
    const cwd = await makeProject(folders)
    const { code, err } = await plinth(cwd, ...args)
    expect(code).not.toBe(0)
    expect(err).toMatch(message)
  },
  60_000,
)
