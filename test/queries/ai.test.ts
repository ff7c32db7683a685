import { describe, expect } from 'vitest'
import { ValidationError } from '../../src/errors.ts'
import { listContextLogs, recordContext } from '../../src/queries/ai.ts'
import { inTenant } from '../../src/tenant.ts'
import { makeContextLog } from '../../src/testing/ai.ts'
import { joinScope, makeScope } from '../../src/testing/factories.ts'
import { test } from '../support/database.ts'

describe('context logs', () => {
  test('are read by their author and the admins, newest first, page by page', async ({ db }) => {
    const owner = await makeScope(db)
    const [ann, ben] = [await joinScope(db, owner), await joinScope(db, owner)]
    const ids = await inTenant(db, ann, async (tenant) => [
      await makeContextLog(tenant, { query: 'first' }),
      await makeContextLog(tenant, { query: 'second', model: 'm', totalTokens: 1_000 }),
    ])

    expect(await inTenant(db, ben, (tenant) => listContextLogs(tenant))).toEqual([])
    const [newest] = await inTenant(db, owner, (tenant) => listContextLogs(tenant, { limit: 1 }))
    expect(newest).toMatchObject({ id: ids[1], query: 'second', model: 'm', userId: ann.userId })
    const rest = await inTenant(db, ann, (tenant) => listContextLogs(tenant, { after: newest?.id }))
    expect(rest.map(({ id }) => id)).toEqual([ids[0]])
  })

  test('refuse more tokens than the budget has', async ({ db }) => {
    await inTenant(db, await makeScope(db), async (tenant) => {
      const entry = { items: [], budgetTokens: 10, totalTokens: 11 }
      await expect(recordContext(tenant, entry)).rejects.toBeInstanceOf(ValidationError)
    })
  })
})
