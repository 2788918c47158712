// How a command ends: its exit code, and the errors that make it one other than 0.

import { constants } from 'node:os'

import { messageOf, type MiniStoreError, propertyOf } from '../errors.ts'

/** The exit codes of commands. */
export const exitCodes = {
  ok: 0,
  /** Damage was found, nothing was found, or the system refused. */
  failed: 1,
  /** The command line is invalid. */
  misuse: 2,
} as const

/** The command line is invalid: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** A command cannot do what was asked: exit code 1. The message says why and what to do. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure'
  /** Stable, for programs. */
  readonly code: string
  /** Further fields for programs. */
  readonly details: Readonly<Record<string, unknown>>

  constructor(
    message: string,
    options: {
      readonly cause?: unknown
      readonly code?: string
      readonly details?: Readonly<Record<string, unknown>>
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = options.code ?? 'ERR_FAILED'
    this.details = options.details ?? {}
  }
}

/** The process was asked to end, by Ctrl-C or by `kill`. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted'
  readonly signal: 'SIGINT' | 'SIGTERM'
  readonly exitCode: number

  /**
   * @param exitCode what shells expect of a process ended by a signal by default: 128 plus the
   *   number of the signal. Differs if the signal is the normal way to end the command.
   */
  constructor(signal: 'SIGINT' | 'SIGTERM', exitCode: number = 128 + constants.signals[signal]) {
    super(`Interrupted by ${signal}`)
    this.signal = signal
    this.exitCode = exitCode
  }
}

/** Damage to a journal as commands print it. The field names are stable. */
export interface DamageReport {
  readonly segment: string | undefined
  readonly line: number | undefined
  readonly offset: number | undefined
  readonly sequence: number | undefined
  readonly reason: string
}

export function damageReport(damage: MiniStoreError): DamageReport {
  const { segment, line, offset, sequence } = damage
  return { segment, line, offset, sequence, reason: reasonOf(damage) }
}

/** Formats damage as `journal.jsonl, line 3, offset 47, sequence 2: the line is blank`. */
export function damageText({ segment, reason, ...numbers }: DamageReport): string {
  const names = (['line', 'offset', 'sequence'] as const).filter((name) => numbers[name] !== undefined)
  const places = names.map((name) => `${name} ${numbers[name]}`)
  return `${[...(segment === undefined ? [] : [segment]), ...places].join(', ')}: ${reason}`
}

/** Returns what is wrong, without the place, which is printed next to it. */
function reasonOf({ message, reason, line, code, cause }: MiniStoreError): string {
  const isUndecoded =
    cause !== undefined &&
    line !== undefined &&
    (code === 'ERR_MINISTORE_CODEC' || propertyOf(cause, 'name') === 'SyntaxError')
  return isUndecoded ? `the line is not JSON: ${messageOf(cause)}` : (reason ?? message)
}
