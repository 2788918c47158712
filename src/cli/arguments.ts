import { parseArgs } from 'node:util'

import { messageOf } from '../errors.ts'
import { nearest } from '../options.ts'
import type { Command } from './command.ts'
import { UsageError } from './exit-codes.ts'

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
    const names = Object.keys(command.options)
    const options = Object.fromEntries(
      Object.entries(command.options).map(([name, { value, short }]) => [
        name,
        {
          type: value === undefined ? ('boolean' as const) : ('string' as const),
          ...(short === undefined ? {} : { short }),
        },
      ]),
    )
    let parsed: ReturnType<typeof parseArgs>
    try {
      parsed = parseArgs({ args: [...given], options, allowPositionals: true, strict: true })
    } catch (error) {
      const unknown = /^Unknown option '--?([^']+)'/.exec(messageOf(error))?.[1]
      if (unknown === undefined) throw new UsageError(messageOf(error), { cause: error })
      const near = nearest(unknown, names)
      const dashes = unknown.length === 1 ? '-' : '--'
      const hint = near === undefined ? '' : `: did you mean --${near}?`
      throw new UsageError(`${command.name} has no option ${dashes}${unknown}${hint}`, { cause: error })
    }
    const { positionals } = parsed
    const missing = command.positionals[positionals.length]
    if (missing !== undefined) throw new UsageError(`Expected ${missing}, got nothing`)
    const all = [...command.positionals, ...(command.optionalPositionals ?? [])]
    const extra = positionals[all.length]
    if (extra !== undefined) {
      const last = all.at(-1) ?? 'command'
      throw new UsageError(`Expected nothing behind the ${last}, got ${JSON.stringify(extra)}`)
    }
    const empty = positionals.indexOf('')
    if (empty !== -1) throw new UsageError(`Expected ${all[empty]}, got an empty word`)
    return new Arguments(parsed.values, positionals)
  }

  /** Returns the positional argument at this index, which `parse` has checked. */
  positional(index: number): string {
    return this.#positionals[index] as string
  }

  /** Returns an optional positional argument, or undefined if it is absent. */
  optionalPositional(index: number): string | undefined {
    return this.#positionals[index]
  }

  flag(name: string): boolean {
    return this.#values[name] === true
  }

  /**
   * Returns the whole number given for an option, or undefined if the option is absent.
   *
   * @throws {UsageError} if the value is not a whole number from `least` to `most`.
   */
  integer(
    name: string,
    limits: { readonly least?: number; readonly most?: number } = {},
  ): number | undefined {
    const text = this.#values[name]
    if (text === undefined) return undefined
    const { least = 1, most = Number.MAX_SAFE_INTEGER } = limits
    const value = typeof text === 'string' && /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
    if (value >= least && value <= most) return value
    const isUnbounded = most === Number.MAX_SAFE_INTEGER && !(Number(text) > most)
    const range = isUnbounded ? `${least} or greater` : `from ${least} to ${most}`
    throw new UsageError(`Expected --${name} to be a whole number, ${range}, got ${JSON.stringify(text)}`)
  }
}
