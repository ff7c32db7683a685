import type { Node } from 'libpg-query'
import { keyOf, named, stringsOf } from './names.ts'
import { valuesUnder } from './parse.ts'
import type { Known } from './replay.ts'

/** Functions of Postgres that are common in defaults and give every row of a statement the same value. */
export const STEADY: ReadonlySet<string> = new Set(
  `now transaction_timestamp statement_timestamp current_setting current_user date_trunc timezone
  make_interval make_date make_timestamptz to_timestamp to_char to_date to_tsvector lower upper md5 sha256
  encode decode concat concat_ws format jsonb_build_object jsonb_build_array json_build_object
  json_build_array to_json to_jsonb array_fill abs round floor ceil length left right btrim replace
  version current_database current_schema pg_backend_pid txid_current pg_current_xact_id`.split(
    /\s+/,
  ),
)

/**
 * The first function in an expression that may give each row another value, for which Postgres has to
 * write the table anew. One that is not known is taken to be one, which is what functions are by default.
 */
export function volatileCall(expression: Node, known: Known): string | undefined {
  for (const call of valuesUnder({ expression }, 'FuncCall')) {
    const words = stringsOf(funcnameOf(call))
    const name = named(words)
    const isBuiltIn = words.length === 1 || words[0] === 'pg_catalog'
    if (isBuiltIn && STEADY.has(name.name)) continue
    const declared = [...known.functions.values()].find((each) => keyOf(each.name) === keyOf(name))
    if (declared && !declared.isVolatile) continue
    return `${words.join('.')}()`
  }
}

const funcnameOf = (call: unknown): Node[] =>
  typeof call === 'object' && call !== null && 'funcname' in call && Array.isArray(call.funcname)
    ? call.funcname
    : []
