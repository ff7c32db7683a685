/** A lock on a table, as Postgres calls it, from the weakest to the strongest. */
export const LOCKS = [
  'ACCESS SHARE',
  'ROW SHARE',
  'ROW EXCLUSIVE',
  'SHARE UPDATE EXCLUSIVE',
  'SHARE',
  'SHARE ROW EXCLUSIVE',
  'EXCLUSIVE',
  'ACCESS EXCLUSIVE',
] as const
export type Lock = (typeof LOCKS)[number]

/** How long a statement needs its lock for; it is held until the transaction ends in any case. */
export type Lasting = 'moment' | 'scan' | 'rewrite' | 'build'

/** What a lock keeps waiting, besides other changes of the schema. */
export const waitsOf = (lock: Lock): 'reads and writes' | 'writes' | undefined =>
  lock === 'ACCESS EXCLUSIVE'
    ? 'reads and writes'
    : LOCKS.indexOf(lock) >= LOCKS.indexOf('SHARE')
      ? 'writes'
      : undefined

const LASTS: Record<Lasting, string> = {
  moment: 'until the transaction ends',
  scan: 'while every row is read',
  rewrite: 'while all rows and indexes are written anew',
  build: 'while the index is built',
}

/** A lock in a sentence: which one, on which table, what waits, and for how long. */
export const lockSentence = (lock: Lock, table: string, lasting: Lasting): string =>
  `takes ${lock} on ${table}: ${waitsOf(lock) ?? 'only other changes of the schema'} wait ${LASTS[lasting]}`
