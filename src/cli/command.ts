// What a command is: its names and help texts, and the arguments that it gets.

import { parseArgs } from 'node:util'

import { messageOf } from '../errors.ts'
import { nearest } from '../options.ts'
import { UsageError } from './errors.ts'
import type { Io } from './io.ts'
import { definitions, wrap } from './render.ts'

/** One command: its help texts, its arguments and its work. */
export interface Command {
  readonly name: string
  /** One line for the list of commands. */
  readonly summary: string
  /** Names of the required positional arguments, in order. */
  readonly positionals: readonly string[]
  /** Names of the optional positional arguments, which follow the required ones. */
  readonly optionalPositionals?: readonly string[]
  /** The name of any number of further positional arguments. */
  readonly rest?: string
  readonly options: Readonly<Record<string, CommandOption>>
  /** The explanation in `--help`. Empty lines separate paragraphs; other line breaks do not matter. */
  readonly details: readonly string[]
  /** What the first optional argument may be, and what each does. */
  readonly actions?: ReadonlyArray<readonly [usage: string, help: string]>
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
  /** Whether the option may be given several times. */
  readonly isRepeatable?: true
  readonly help: string
}

/** Options that several commands share. */
export const commonOptions: Readonly<Record<'json' | 'noJson' | 'write', CommandOption>> = {
  json: { help: 'print JSON, for programs' },
  noJson: { help: 'the records are not JSON: do not check the lines' },
  write: { help: 'make the change; without it, nothing is changed' },
}

/**
 * The arguments of a command. Values are checked when the command asks for them.
 *
 * They are parsed with `node:util`, which can do all that is needed, so that installing the library
 * brings no further package.
 */
export class Arguments {
  readonly #values: Readonly<Record<string, unknown>>
  readonly #positionals: readonly string[]

  private constructor(values: Readonly<Record<string, unknown>>, positionals: readonly string[]) {
    this.#values = values
    this.#positionals = positionals
  }

  /**
   * Parses the words after the name of the command.
   *
   * @throws {UsageError} if an option is unknown, or if there are too many or too few positional
   *   arguments.
   */
  static parse(command: Command, given: readonly string[]): Arguments {
    const { values, positionals } = parse(command, given)
    const missing = command.positionals[positionals.length]
    if (missing !== undefined) throw new UsageError(`Expected ${missing}, got nothing`)
    const all = [...command.positionals, ...(command.optionalPositionals ?? [])]
    const extra = positionals[all.length]
    if (extra !== undefined && command.rest === undefined) {
      throw new UsageError(`Expected no argument after ${all.at(-1) ?? command.name}, got ${JSON.stringify(extra)}`)
    }
    const empty = positionals.findIndex((text, at) => text === '' && all[at] !== 'PATTERN')
    if (empty !== -1) throw new UsageError(`Expected ${all[empty] ?? command.rest}, got an empty argument`)
    return new Arguments(values, positionals)
  }

  /** Returns the positional argument at this index, which `parse` has checked. */
  positional(index: number): string {
    return this.#positionals[index] as string
  }

  /** Returns an optional positional argument, or undefined if it is absent. */
  optionalPositional(index: number): string | undefined {
    return this.#positionals[index]
  }

  /** All positional arguments, in order. */
  get positionals(): readonly string[] {
    return this.#positionals
  }

  /** Returns the values of an option that may be given several times. */
  texts(name: string): readonly string[] {
    return (this.#values[name] ?? []) as readonly string[]
  }

  flag(name: string): boolean {
    return this.#values[name] === true
  }

  /** Returns the text given for an option, or undefined if the option is absent. */
  text(name: string): string | undefined {
    return this.#values[name] as string | undefined
  }

  /**
   * Returns the whole number given for an option, or undefined if the option is absent.
   *
   * @throws {UsageError} if the value is not a whole number from `min` to `max`.
   */
  integer(name: string, limits: { readonly min?: number; readonly max?: number } = {}): number | undefined {
    const text = this.#values[name]
    if (text === undefined) return undefined
    const { min = 1, max = Number.MAX_SAFE_INTEGER } = limits
    const value = typeof text === 'string' && /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
    if (value >= min && value <= max) return value
    const isUnbounded = max === Number.MAX_SAFE_INTEGER && !(Number(text) > max)
    const range = isUnbounded ? `${min} or greater` : `from ${min} to ${max}`
    throw new UsageError(`Expected --${name} to be a whole number, ${range}, got ${JSON.stringify(text)}`)
  }
}

function parse({ name: command, options }: Command, given: readonly string[]): ReturnType<typeof parseArgs> {
  const specs = Object.entries(options).map(([name, { value, short, isRepeatable = false }]) => {
    const type = value === undefined ? ('boolean' as const) : ('string' as const)
    return [name, { type, multiple: isRepeatable, ...(short === undefined ? {} : { short }) }] as const
  })
  try {
    return parseArgs({ args: withCount(given, options), options: Object.fromEntries(specs), allowPositionals: true, strict: true })
  } catch (error) {
    const message = messageOf(error)
    const known = /^Option '(?:-\w, )?(--[\w-]+).*' (argument missing|does not take)/.exec(message)
    if (known !== null) {
      const [, option, problem] = known
      const [wanted, found] = problem === 'argument missing' ? ['a value', 'nothing'] : ['no value', 'one']
      throw new UsageError(`Expected ${wanted} for ${option}, got ${found}`, { cause: error })
    }
    const unknown = /^Unknown option '--?([^']+)'/.exec(message)?.[1]
    if (unknown === undefined) throw new UsageError(message, { cause: error })
    const near = nearest(unknown, Object.keys(options))
    const hint = near === undefined ? '' : `: did you mean --${near}?`
    const option = `${unknown.length === 1 ? '-' : '--'}${unknown}`
    throw new UsageError(`${command} has no option ${option}${hint}`, { cause: error })
  }
}

/** Reads `-5` as `--lines 5`, as `tail` of the system does, if there is such an option. */
function withCount(given: readonly string[], options: Command['options']): string[] {
  const end = given.indexOf('--')
  return given.map((word, at) => {
    const isCount = 'lines' in options && /^-\d+$/.test(word) && (end === -1 || at < end) && !/^(?:-n|--lines)$/.test(given[at - 1] ?? '')
    return isCount ? `--lines=${word.slice(1)}` : word
  })
}

/** Longer lines are hard to read, however wide the terminal is. */
const maxColumns = 100

/** Returns what `ministore --help` prints. */
export function generalHelp(commands: readonly Command[], columns: number): string {
  const width = Math.min(columns, maxColumns)
  return [
    ...wrap('Inspects, follows, verifies, repairs and writes ministore journals.', width),
    '',
    'Usage: ministore COMMAND [options]',
    '',
    ...definitions(commands.map((command) => [`  ${usageOf(command)}`, command.summary] as const), width),
    '',
    ...definitions(
      [
        ['  ministore COMMAND --help', 'explain a command and its options'],
        ['  ministore --version', 'print the version'],
      ],
      width,
    ),
    '',
    ...wrap('Commands that only read take no lock, and work while another process writes.', width),
    ...wrap('Exit codes: 0 success; 1 damage, nothing found, or an error; 2 an invalid command line.', width),
    '',
  ].join('\n')
}

/** Returns what `ministore COMMAND --help` prints. */
export function commandHelp(command: Command, columns: number): string {
  const { summary, options, details, actions = [], examples } = command
  const width = Math.min(columns, maxColumns)
  const rows = Object.entries(options).map(([name, spec]) => [`  ${optionUsage(name, spec)}`, spec.help] as const)
  return [
    ...wrap(`${summary[0]?.toUpperCase()}${summary.slice(1)}.`, width),
    '',
    `Usage: ministore ${usageOf(command)} [options]`,
    '',
    ...details.join('\n').split('\n\n').flatMap((text) => [...wrap(text.replaceAll('\n', ' '), width), '']),
    ...definitions(actions.map(([usage, help]) => [`  ${usage}`, help] as const), width),
    ...(actions.length === 0 ? [] : ['']),
    ...definitions([...rows, ['  -h, --help', 'print this help']], width),
    '',
    examples.length === 1 ? 'Example:' : 'Examples:',
    ...examples.map((example) => `  ${example}`),
    '',
  ].join('\n')
}

function usageOf({ name, positionals, optionalPositionals = [], rest }: Command): string {
  const more = rest === undefined ? optionalPositionals : [...optionalPositionals, `${rest}…`]
  return [name, ...positionals, ...more.map((optional) => `[${optional}]`)].join(' ')
}

function optionUsage(name: string, { value, short }: CommandOption): string {
  const both = short === undefined ? `--${name}` : `-${short}, --${name}`
  return value === undefined ? both : `${both} ${value}`
}
