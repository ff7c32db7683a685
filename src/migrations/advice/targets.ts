import type { Node } from 'libpg-query'
import { type Name, named, nameOf, stringsOf } from './names.ts'
import { droppedNames } from './replay.ts'

/** The relations, types and functions that a statement makes, changes or drops. */
export function madeBy(node: Node): Name[] {
  if ('CreateStmt' in node) return [nameOf(node.CreateStmt.relation)]
  if ('CreateTableAsStmt' in node) return [nameOf(node.CreateTableAsStmt.into?.rel)]
  if ('AlterTableStmt' in node) return [nameOf(node.AlterTableStmt.relation)]
  if ('IndexStmt' in node) return [nameOf(node.IndexStmt.relation)]
  if ('ViewStmt' in node) return [nameOf(node.ViewStmt.view)]
  if ('CreatePolicyStmt' in node) return [nameOf(node.CreatePolicyStmt.table)]
  if ('AlterPolicyStmt' in node) return [nameOf(node.AlterPolicyStmt.table)]
  if ('CreateTrigStmt' in node) return [nameOf(node.CreateTrigStmt.relation)]
  if ('CreateSeqStmt' in node) return [nameOf(node.CreateSeqStmt.sequence)]
  if ('RenameStmt' in node && node.RenameStmt.relation) return [nameOf(node.RenameStmt.relation)]
  if ('CreateEnumStmt' in node) return [named(stringsOf(node.CreateEnumStmt.typeName))]
  if ('AlterEnumStmt' in node) return [named(stringsOf(node.AlterEnumStmt.typeName))]
  if ('CreateFunctionStmt' in node) return [named(stringsOf(node.CreateFunctionStmt.funcname))]
  if ('InsertStmt' in node) return [nameOf(node.InsertStmt.relation)]
  if ('UpdateStmt' in node) return [nameOf(node.UpdateStmt.relation)]
  if ('DeleteStmt' in node) return [nameOf(node.DeleteStmt.relation)]
  if ('DropStmt' in node) {
    const { removeType = 'OBJECT_TABLE', objects } = node.DropStmt
    const hasSchema = /TABLE$|VIEW$|INDEX$|SEQUENCE$|TYPE$|DOMAIN$/.test(removeType)
    return hasSchema ? droppedNames(objects).map(named) : []
  }
  return []
}
