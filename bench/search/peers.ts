import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export interface Found {
  id: string
  text: string
  metadata: object
}

/** Another library's store, wrapped by a module of bench/peers. */
export interface Peer {
  /** Its table, made by itself. */
  table: string
  /** Copies bench.items into it, in its own format. */
  fill: string
  /** Builds the index that it recommends; undefined if it has none. */
  buildIndex: (() => Promise<unknown>) | undefined
  /** Each way of asking it for the nearest of an organization, through its own API. */
  searches: Record<string, (organization: string, vector: number[], k: number) => Promise<Found[]>>
  close(): Promise<unknown>
}

interface PeerModule {
  open(options: { url: string; dimensions: number }): Promise<Peer>
}

const folder = new URL('../peers/', import.meta.url)

/** Its module; not type-checked, since its packages are not there before the bench has run. */
const importPeer = async (name: string): Promise<PeerModule> =>
  (await import(new URL(`${name}.mjs`, folder).href)) as PeerModule

/**
 * Installs the packages of the others if they are not there, and says which versions there are: the newest that
 * run on Node 20. Hence Mastra before 1.0, and an override of what LangChain's package brings for OpenAI.
 */
export function installPeers(): string {
  const path = fileURLToPath(folder)
  if (!existsSync(new URL('node_modules/.package-lock.json', folder))) {
    process.stdout.write('installing LangChain, Mastra and LlamaIndex into bench/peers …\n')
    execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: path, stdio: 'ignore' })
  }
  const { dependencies }: { dependencies: Record<string, string> } = JSON.parse(
    readFileSync(new URL('package.json', folder), 'utf8'),
  )
  return ['@langchain/community', '@mastra/pg', '@llamaindex/postgres', 'pg']
    .map((name) => `${name} ${dependencies[name]}`)
    .join(', ')
}

export async function openPeers(url: string, dimensions: number): Promise<Peer[]> {
  const modules = await Promise.all(['langchain', 'mastra', 'llamaindex'].map(importPeer))
  return Promise.all(modules.map(({ open }) => open({ url, dimensions })))
}
