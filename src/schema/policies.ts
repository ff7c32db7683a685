import { type SQL, sql } from 'drizzle-orm'
import { type AnyPgColumn, pgPolicy, pgRole } from 'drizzle-orm/pg-core'
import { managedRole } from './managed.ts'

/** Who every tenant query runs as. It owns nothing, so row level security binds it. */
export const plinthApp = pgRole('plinth_app').existing()

/** What a service's login inherits: platform tables, and the right to enter a scope. No tenant table. */
export const plinthPlatform = pgRole('plinth_platform').existing()

/** In the order in which they are created. */
export const roleObjects = [managedRole('plinth_app'), managedRole('plinth_platform')]

// Expressions over settings and nothing else, not even (select …): Citus takes no subquery in a policy.
// Nor would one be faster, since queries name the organization too. Unset is null or '': no row.

/** The organization in scope; null without one. */
export const scopedOrganization = sql`nullif(current_setting('plinth.organization_id', true), '')::uuid`
/** The user in scope; null for a service. */
export const scopedUser = sql`nullif(current_setting('plinth.user_id', true), '')::uuid`

const hasRole = (...roles: string[]) =>
  sql.join([
    sql`current_setting('plinth.role', true) in (`,
    sql.raw(roles.map((role) => `'${role}'`).join(', ')),
    sql`)`,
  ])

export const isOwner = hasRole('owner', 'service')
export const isService = hasRole('service')
export const isAdmin = hasRole('owner', 'admin', 'service')
const isEditor = hasRole('owner', 'admin', 'editor', 'service')
export const isContributor = hasRole('owner', 'admin', 'editor', 'member', 'service')

/** Which rows of its organization a member may read and write. `true`: all of them; absent: none. */
export interface TenantRules {
  read?: SQL | true
  insert?: SQL | true
  update?: SQL | true
  delete?: SQL | true
}

const written = (rule: SQL): TenantRules => ({ insert: rule, update: rule, delete: rule })

/** Every member reads; editors and above write. */
export const shared = (): TenantRules => ({ read: true, ...written(isEditor) })

/** The owner, and the admins. A viewer owns nothing. */
export const owned = (owner: AnyPgColumn): TenantRules => ({
  read: sql`(${isAdmin} or ${owner} = ${scopedUser})`,
  ...written(sql`(${isAdmin} or (${owner} = ${scopedUser} and ${isContributor}))`),
})

/** Anyone in scope appends in the own name or in nobody's, and reads the own; admins read all. */
export const log = (actor: AnyPgColumn): TenantRules => ({
  read: sql`(${isAdmin} or ${actor} = ${scopedUser})`,
  insert: sql`(${isAdmin} or ${actor} is null or ${actor} = ${scopedUser})`,
})

/** Whoever writes something adds the work that it makes; only admins and services see it, and do it. */
export const queued = (): TenantRules => ({ ...administered(), insert: isContributor })

/** Admins only. */
export const administered = (): TenantRules => ({ read: isAdmin, ...written(isAdmin) })

/** Which rows with a visibility a member sees. Also inside the function that searches text. */
export const isVisible = (owner: SQL | AnyPgColumn, visibility: SQL | AnyPgColumn) =>
  sql`(${visibility} = 'shared' or ${isAdmin} or ${owner} = ${scopedUser})`

/** Shared rows as `shared`, private ones as `owned`. */
export const visible = (owner: AnyPgColumn, visibility: AnyPgColumn): TenantRules => ({
  read: isVisible(owner, visibility),
  ...written(
    sql`(${isAdmin} or (${owner} = ${scopedUser} and ${isContributor}) or (${visibility} = 'shared' and ${isEditor}))`,
  ),
})

/** The policies of a tenant table: no row outside the organization in scope, and within it by `rules`. */
export function tenantPolicies(table: string, organization: AnyPgColumn, rules: TenantRules) {
  const within = (rule: SQL | true) =>
    rule === true
      ? sql`${organization} = ${scopedOrganization}`
      : sql`${organization} = ${scopedOrganization} and ${rule}`
  const rule = ({ read, insert, update, delete: remove }: TenantRules) => [
    read && pgPolicy(`${table}_select`, { for: 'select', to: plinthApp, using: within(read) }),
    insert &&
      pgPolicy(`${table}_insert`, { for: 'insert', to: plinthApp, withCheck: within(insert) }),
    update &&
      pgPolicy(`${table}_update`, {
        for: 'update',
        to: plinthApp,
        using: within(update),
        withCheck: within(update),
      }),
    remove && pgPolicy(`${table}_delete`, { for: 'delete', to: plinthApp, using: within(remove) }),
  ]
  // One a command, and none for all: permissive policies of one command are all evaluated, row by row.
  return rule(rules).filter((policy) => policy !== undefined)
}
