/** A field of an error, as each SDK has it. */
const fieldOf = (error: unknown, name: string): unknown =>
  typeof error === 'object' && error !== null ? Reflect.get(error, name) : undefined

const statusOf = (error: unknown): unknown =>
  fieldOf(error, 'statusCode') ?? fieldOf(error, 'status')

/** Whether a model has refused the caller, and no text is to blame. */
export const isRefusal = (error: unknown): boolean =>
  [401, 403].some((status) => statusOf(error) === status)

/** Whether it may go better another time: yes, unless the error itself says no. */
export const isRetryable = (error: unknown): boolean => fieldOf(error, 'isRetryable') !== false

/** Words in a row that a message may have in common with a text by chance. */
const COMMON_WORDS = 4

const MAX_MESSAGE = 200

const wordsOf = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []

/**
 * What is kept of a failure: its class, its status, and its message without what may be a key. No message
 * at all where it quotes one of the texts: jobs are read by who may not read those.
 */
export function describeFailure(error: unknown, texts: readonly string[]): string {
  const name = error instanceof Error ? error.name : typeof error
  const status = statusOf(error)
  const title = typeof status === 'number' ? `${name} ${status}` : name
  const message = error instanceof Error ? error.message.slice(0, 2_000) : ''
  const shown = message
    .replace(/(["'`“‘]).*?(["'`”’]|$)/gs, '…')
    .replace(/[^\s,;()]*\d[^\s,;()]*/g, (token) => (token.length >= 8 ? '…' : token))
    .replace(/\S{24,}/g, '…')
    .slice(0, MAX_MESSAGE)
    .trim()
  return shown === '' || quotes(shown, texts) ? title : `${title}: ${shown}`
}

function quotes(message: string, texts: readonly string[]): boolean {
  const words = wordsOf(message)
  const runs = words.flatMap((_, at) => {
    const run = words.slice(at, at + COMMON_WORDS)
    return run.length === COMMON_WORDS ? [run.join(' ')] : []
  })
  return texts.some((text) => {
    const all = ` ${wordsOf(text).join(' ')} `
    return (
      runs.some((run) => all.includes(` ${run} `)) ||
      (all.length > 2 && words.length > 0 && ` ${words.join(' ')} `.includes(all))
    )
  })
}
