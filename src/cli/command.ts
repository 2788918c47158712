import type { Arguments } from './arguments.ts'
import type { Io } from './io.ts'

/** One command: what `--help` says of it, what it takes and what it does. */
export interface Command {
  readonly name: string
  /** One line for the list of commands. */
  readonly summary: string
  /** What it needs besides options, in order. */
  readonly positionals: readonly string[]
  /** What it may be given behind them. */
  readonly optionalPositionals?: readonly string[]
  readonly options: Readonly<Record<string, CommandOption>>
  /** What a user must know, in lines. */
  readonly details: readonly string[]
  readonly examples: readonly string[]
  /** Whether, called so, it is to change something; when absent, whether it is given `--write`. */
  changes?(args: Arguments): boolean
  /** Resolves with the exit code. */
  run(args: Arguments, io: Io): Promise<number>
}

export interface CommandOption {
  /** How its value is called in help; absent for one that takes none. */
  readonly value?: string
  readonly short?: string
  readonly help: string
}

/** Options that more than one command has. */
export const commonOptions: Readonly<Record<'json' | 'noJson', CommandOption>> = {
  json: { help: 'prints JSON, for programs' },
  noJson: { help: 'the records are of another codec: does not expect JSON in the lines' },
}
