import { constants } from 'node:os'

/** The exit codes of commands. */
export const exitCodes = {
  ok: 0,
  /** Damage was found, nothing was found, or the system refused. */
  failed: 1,
  /** The command line is invalid. */
  misuse: 2,
} as const

/** Returns the exit code that shells expect of a process ended by a signal: 128 plus its number. */
export function exitCodeOfSignal(name: 'SIGINT' | 'SIGTERM'): number {
  return 128 + constants.signals[name]
}

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
   * @param exitCode 128 plus the number of the signal by default. Differs if the signal is the
   *   normal way to end the command.
   */
  constructor(signal: 'SIGINT' | 'SIGTERM', exitCode: number = exitCodeOfSignal(signal)) {
    super(`Interrupted by ${signal}`)
    this.signal = signal
    this.exitCode = exitCode
  }
}
