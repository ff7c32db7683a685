import { generateMigration } from '../src/migrations/generate.ts'
import { managedObjects } from '../src/schema/objects.ts'

const path = await generateMigration(managedObjects, { name: process.argv[2] })
process.stdout.write(path ? `wrote ${path}\n` : 'nothing to generate\n')
