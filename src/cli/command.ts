import type { Arguments } from './arguments.ts'
import type { Io } from './io.ts'

/** One command: its help texts, its arguments and its work. */
export interface Command {
  readonly name: string
  /** One line for the list of commands. */
  readonly summary: string
  /** Names of the required positional arguments, in order. */
  readonly positionals: readonly string[]
  /** Names of the optional positional arguments, which follow the required ones. */
  readonly optionalPositionals?: readonly string[]
  readonly options: Readonly<Record<string, CommandOption>>
  /** The lines of `--help` that explain the command. */
  readonly details: readonly string[]
  readonly examples: readonly string[]
  /**
   * Whether the command changes something when called with these arguments. If absent, a command
   * changes something only with `--write`.
   */
  changes?(args: Arguments): boolean
  /** Resolves with the exit code. */
  run(args: Arguments, io: Io): Promise<number>
}

export interface CommandOption {
  /** The name of the option's value in help. Absent for an option without a value. */
  readonly value?: string
  readonly short?: string
  readonly help: string
}

/** Options that several commands share. */
export const commonOptions: Readonly<Record<'json' | 'noJson', CommandOption>> = {
  json: { help: 'prints JSON, for programs' },
  noJson: { help: 'the records are of another codec: does not expect JSON in the lines' },
}
