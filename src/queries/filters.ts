import { type SQL, sql } from 'drizzle-orm'
import { type MetadataFilter, metadataPath } from '../metadata.ts'
import { checkInstant, checkList, checkText, checkUuid } from '../validation.ts'

/** Which chunks are looked at; all that the member may see unless said. */
export interface SearchFilters {
  sourceTypes?: readonly string[]
  sourceIds?: readonly string[]
  projectId?: string
  categoryId?: string
  ownerId?: string
  /** By when the source was written or said; `until` is exclusive. */
  since?: Date
  until?: Date
  metadata?: MetadataFilter
  /** A source that is left out. */
  except?: { sourceType: string; sourceId: string }
}

/** Checks the filters that a search is given. @throws {ValidationError} */
export function checkFilters({
  projectId,
  categoryId,
  ownerId,
  since,
  until,
  metadata,
  except,
  ...lists
}: SearchFilters): void {
  for (const name of ['sourceTypes', 'sourceIds'] as const) {
    const list = lists[name]
    if (list === undefined) continue
    checkList(name, list, { min: 1 })
    for (const [at, item] of list.entries()) checkText(`${name}[${at}]`, item)
  }
  for (const [name, id] of Object.entries({ projectId, categoryId, ownerId })) {
    if (id !== undefined) checkUuid(name, id)
  }
  if (since !== undefined) checkInstant('since', since)
  if (until !== undefined) checkInstant('until', until)
  if (metadata !== undefined) metadataPath(metadata)
  if (except !== undefined) {
    checkText('except.sourceType', except?.sourceType)
    checkText('except.sourceId', except.sourceId)
  }
}

/** The filters alone, as JSON. */
export function givenFilters(options: SearchFilters): Record<string, unknown> {
  const { sourceTypes, sourceIds, projectId, categoryId, ownerId, since, until } = options
  const { metadata, except } = options
  const given = { sourceTypes, sourceIds, projectId, categoryId, ownerId, since, until }
  return JSON.parse(JSON.stringify({ ...given, metadata, except }))
}

/** The filters in the order in which the functions of the database take them. */
export function filterArguments(options: SearchFilters): SQL {
  const list = (items: readonly string[] | undefined) =>
    items === undefined
      ? sql`null::text[]`
      : sql`array(select json_array_elements_text(${JSON.stringify(items)}::text::json))`
  return sql.join(
    [
      list(options.sourceTypes),
      list(options.sourceIds),
      sql`${options.projectId ?? null}::uuid`,
      sql`${options.categoryId ?? null}::uuid`,
      sql`${options.ownerId ?? null}::uuid`,
      sql`${options.since?.toISOString() ?? null}::timestamptz`,
      sql`${options.until?.toISOString() ?? null}::timestamptz`,
      sql`${options.metadata === undefined ? null : metadataPath(options.metadata)}::text::jsonpath`,
      sql`${options.except?.sourceType ?? null}::text`,
      sql`${options.except?.sourceId ?? null}::text`,
    ],
    sql`, `,
  )
}
