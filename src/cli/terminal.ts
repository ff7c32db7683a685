import { stripVTControlCharacters } from 'node:util'
import { CommanderError } from 'commander'
import pc from 'picocolors'
import {
  ForbiddenError,
  MigrationError,
  MigrationStateError,
  PlinthError,
  ValidationError,
} from '../errors.ts'

/** Wrong input to a command. One line says what is wrong. */
export class UsageError extends PlinthError {
  override readonly name = 'UsageError'
}

/** The user has pressed Ctrl-C. */
export class InterruptedError extends PlinthError {
  override readonly name = 'InterruptedError'
}

/** What was to be checked is not so. The command has said what it found. */
export class FailedCheck extends PlinthError {
  override readonly name = 'FailedCheck'
}

/** 0 success, 1 failure, 2 wrong input, 130 interrupted. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof InterruptedError) return 130
  return error instanceof UsageError || error instanceof ValidationError ? 2 : 1
}

/** Says what went wrong: in one line where plinth knows, whole where it does not. */
export function tell(error: unknown): void {
  if (error instanceof FailedCheck) return
  const text =
    error instanceof PlinthError
      ? error.message
      : error instanceof Error
        ? (error.stack ?? error.message)
        : String(error)
  const hint =
    error instanceof ForbiddenError && error.reason === 'permission'
      ? ' (migrations and partitions need an owner’s rights: see docs/production.md)'
      : ''
  // A migration's problem has lines of its own: one for each, and the diff of an edit.
  const isLong = [error, error instanceof Error ? error.cause : undefined].some(
    (one) => one instanceof MigrationError || one instanceof MigrationStateError,
  )
  const shown = isLong ? harmless(text) : printable(text)
  process.stderr.write(`${pc.red('error:')} ${shown}${hint}\n`)
}

/** The same without what a terminal would obey, but with its lines and tabs. */
export const harmless = (text: string): string =>
  stripVTControlCharacters(text)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '')

/** Text from files and databases, made harmless: on one line, and without what a terminal would obey. */
export const printable = (text: string): string =>
  stripVTControlCharacters(text)
    .replace(/\s+/g, ' ')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, '')

export const print = (text: string): void => {
  process.stdout.write(`${text}\n`)
}

/** What a command says while it works; on standard error, so that standard output holds the result alone. */
export interface Progress {
  /** Shows what is being done, in place of what was shown before. */
  doing(text: string): void
  /** Leaves a line that says what was done. */
  done(text: string): void
}

/** A line that is rewritten on a terminal. Clack's would take Ctrl-C for itself, and exit at once. */
export function progress(isQuiet: boolean): Progress {
  const { stderr } = process
  if (isQuiet) return { doing: () => {}, done: () => {} }
  const clear = stderr.isTTY ? '\r\u001b[K' : ''
  return {
    doing: (text) => {
      if (stderr.isTTY)
        stderr.write(`${clear}${pc.dim(`… ${text}`.slice(0, (stderr.columns ?? 80) - 1))}`)
    },
    done: (text) => {
      stderr.write(`${clear}${pc.green('✓')} ${text}\n`)
    },
  }
}
