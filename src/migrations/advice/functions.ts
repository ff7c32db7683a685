import type {
  DefElem,
  FunctionParameter,
  GrantStmt,
  Node,
  ObjectWithArgs,
  TypeName,
} from 'libpg-query'
import { keyOf, type Name, named, shownType, stringsOf, typeOf } from './names.ts'
import type { Known, KnownFunction, Origin } from './replay.ts'

const optionsOf = (nodes: readonly Node[] | undefined): DefElem[] =>
  (nodes ?? []).flatMap((node) => ('DefElem' in node ? [node.DefElem] : []))

const typesOf = (types: readonly (TypeName | undefined)[]): string =>
  types.map((type) => shownType({ ...typeOf(type), modifiers: [] })).join(', ')

/** Which function is meant, and by which types of arguments; undefined for the only one of its name. */
function target(object: ObjectWithArgs): { name: Name; argumentTypes?: string } {
  const name = named(stringsOf(object.objname))
  if (object.args_unspecified) return { name }
  const types = (object.objargs ?? []).map((node) =>
    'TypeName' in node ? node.TypeName : undefined,
  )
  return { name, argumentTypes: typesOf(types) }
}

const functionKey = (name: Name, argumentTypes: string) => `${keyOf(name)}(${argumentTypes})`

/** Adds to what is known what a statement does to functions and to who may call them. */
export function replayFunction(known: Known, node: Node, origin: Origin): void {
  if ('CreateFunctionStmt' in node) {
    const { funcname, parameters, options, returnType } = node.CreateFunctionStmt
    const name = named(stringsOf(funcname))
    const inputs = (parameters ?? []).flatMap((each) =>
      'FunctionParameter' in each && isInput(each.FunctionParameter)
        ? [each.FunctionParameter.argType]
        : [],
    )
    const argumentTypes = typesOf(inputs)
    const key = functionKey(name, argumentTypes)
    const before = known.functions.get(key)
    const made: KnownFunction = {
      name,
      argumentTypes,
      isDefiner: false,
      isVolatile: true,
      // Replacing a function leaves its grants alone.
      isPublic: before?.isPublic ?? !known.hidesFunctions,
      isTrigger: /^(event_)?trigger$/.test(typeOf(returnType).base),
      origin,
    }
    known.functions.set(key, made)
    for (const option of optionsOf(options)) apply(made, option)
  } else if ('AlterFunctionStmt' in node) {
    for (const found of meant(known, node.AlterFunctionStmt.func))
      for (const option of optionsOf(node.AlterFunctionStmt.actions)) apply(found, option)
  } else if (
    'DropStmt' in node &&
    /FUNCTION|PROCEDURE|ROUTINE/.test(node.DropStmt.removeType ?? '')
  ) {
    for (const object of node.DropStmt.objects ?? [])
      if ('ObjectWithArgs' in object)
        for (const found of meant(known, object.ObjectWithArgs))
          known.functions.delete(functionKey(found.name, found.argumentTypes))
  } else if ('GrantStmt' in node) replayGrant(known, node.GrantStmt)
  else if ('AlterDefaultPrivilegesStmt' in node) {
    const { action } = node.AlterDefaultPrivilegesStmt
    if (action?.objtype === 'OBJECT_FUNCTION' && isPublic(action))
      known.hidesFunctions = !action.is_grant
  }
}

const isInput = ({ mode }: FunctionParameter) =>
  mode !== 'FUNC_PARAM_OUT' && mode !== 'FUNC_PARAM_TABLE'

function apply(found: KnownFunction, { defname, arg }: DefElem): void {
  if (defname === 'security') found.isDefiner = isTrue(arg)
  else if (defname === 'volatility') {
    found.isVolatile = arg !== undefined && 'String' in arg && arg.String.sval === 'volatile'
  } else if (defname === 'set' && arg && 'VariableSetStmt' in arg) {
    const { name, kind, args } = arg.VariableSetStmt
    if (name !== 'search_path') return
    if (kind !== 'VAR_SET_VALUE') delete found.searchPath
    else found.searchPath = (args ?? []).flatMap(constant)
  }
}

const isTrue = (node: Node | undefined) =>
  node !== undefined && 'Boolean' in node && node.Boolean.boolval === true

const constant = (node: Node): string[] =>
  'A_Const' in node && node.A_Const.sval ? [node.A_Const.sval.sval ?? ''] : []

function meant(known: Known, object: ObjectWithArgs | undefined): KnownFunction[] {
  if (!object) return []
  const { name, argumentTypes } = target(object)
  return [...known.functions.values()].filter(
    (each) =>
      keyOf(each.name) === keyOf(name) &&
      (argumentTypes === undefined || each.argumentTypes === argumentTypes),
  )
}

const isPublic = ({ grantees }: GrantStmt) =>
  (grantees ?? []).some(
    (node) => 'RoleSpec' in node && node.RoleSpec.roletype === 'ROLESPEC_PUBLIC',
  )

function replayGrant(known: Known, grant: GrantStmt): void {
  if (!/FUNCTION|PROCEDURE|ROUTINE/.test(grant.objtype ?? '') || !isPublic(grant)) return
  const found =
    grant.targtype === 'ACL_TARGET_ALL_IN_SCHEMA'
      ? [...known.functions.values()].filter(({ name }) =>
          stringsOf(grant.objects).includes(name.schema ?? 'public'),
        )
      : (grant.objects ?? []).flatMap((object) =>
          'ObjectWithArgs' in object ? meant(known, object.ObjectWithArgs) : [],
        )
  for (const each of found) each.isPublic = grant.is_grant === true
}
