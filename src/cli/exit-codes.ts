import { constants } from 'node:os'

/** How a command ends. */
export const exitCodes = {
  ok: 0,
  /** Damage, nothing found, or the system refused. */
  failed: 1,
  /** The command was called in a way that cannot be meant. */
  misuse: 2,
} as const

/** What a shell expects of a process that a signal has ended. */
export function exitCodeOfSignal(name: 'SIGINT' | 'SIGTERM'): number {
  return 128 + constants.signals[name]
}

/** The command line is wrong: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** A command cannot do what it was asked for, and says why and what to do: exit code 1. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure'
  /** Stable, for programs. */
  readonly code: string
  /** What programs are told besides. */
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

/** The process was asked to end: by Ctrl-C or by `kill`. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted'
  readonly signal: 'SIGINT' | 'SIGTERM'
  readonly exitCode: number

  /** @param exitCode what a shell expects, unless that is how the command is meant to end. */
  constructor(signal: 'SIGINT' | 'SIGTERM', exitCode: number = exitCodeOfSignal(signal)) {
    super(`Interrupted by ${signal}`)
    this.signal = signal
    this.exitCode = exitCode
  }
}
