import { generate } from '../src/migrations/generate/generate.ts'

const name = process.argv[2]
const made = await generate({ cwd: process.cwd(), ...(name !== undefined && { name }) })
process.stdout.write(made ? `wrote ${made.path}\n` : 'nothing to generate\n')
