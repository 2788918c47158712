import { fileURLToPath } from 'node:url'

import { messageOf } from './errors.ts'

/** Options as the caller passed them, by name. */
export type Fields = Readonly<Record<string, unknown>>

/**
 * Copies the options, or the group of options with this name, into an object of known names.
 * Misspelled names are refused, because they would silently select defaults. Without options the
 * result is empty.
 *
 * @throws {TypeError} if the options are not an object or contain an unknown name.
 */
export function fields(options: unknown, known: readonly string[], group?: string): Fields {
  if (options === undefined) return {}
  if (!isObject(options) || Array.isArray(options)) {
    const what = group === undefined ? 'options' : `\`${group}\``
    throw new TypeError(`Expected ${what} to be an object, got ${shown(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    const near = nearest(name, known)
    const hint = near === undefined ? `known are ${known.join(', ')}` : `did you mean \`${near}\`?`
    throw new TypeError(`Unknown option \`${name}\`: ${hint}`)
  }
  return { ...options }
}

/** The values that a number option accepts. */
interface Limits {
  /** Replaces an undefined value. Without a default, an undefined value is refused. */
  readonly default?: number
  /** 1 if undefined. */
  readonly min?: number
  /** The largest number of the kind if undefined. */
  readonly max?: number
  /** Accepts `Infinity` as well, whatever `max` is. */
  readonly orInfinity?: boolean
}

/**
 * Returns a whole number within the limits. By default any from 1 up to `Number.MAX_SAFE_INTEGER`.
 *
 * @throws {TypeError} if the value is not a number.
 * @throws {RangeError} if the number is not whole or is out of range.
 */
export function integer(name: string, value: unknown, limits: Limits = {}): number {
  return numberOf(name, value, limits, {
    kind: 'a whole number', isKind: Number.isSafeInteger, largest: Number.MAX_SAFE_INTEGER,
  })
}

/**
 * Returns a number within the limits. It need not be whole.
 *
 * @throws {TypeError} if the value is not a number.
 * @throws {RangeError} if the number is out of range.
 */
export function finiteNumber(name: string, value: unknown, limits: Limits): number {
  return numberOf(name, value, limits, { kind: 'a number', isKind: Number.isFinite, largest: Number.MAX_VALUE })
}

function numberOf(
  name: string,
  value: unknown,
  limits: Limits,
  { kind, isKind, largest }: { kind: string; isKind: (value: number) => boolean; largest: number },
): number {
  if (value === undefined && limits.default !== undefined) return limits.default
  if (typeof value !== 'number') throw new TypeError(`Expected \`${name}\` to be ${kind}, got ${shown(value)}`)
  const { min = 1, max = largest, orInfinity = false } = limits
  if (isKind(value) && value >= min && value <= max) return value
  if (orInfinity && value === Number.POSITIVE_INFINITY) return value
  const bounds = max === largest ? `${min} or greater` : `from ${min} to ${max}`
  throw new RangeError(`Expected \`${name}\` to be ${kind}, ${bounds}, got ${value}`)
}

/** Whether a value can be the identity of a journal: 16 lower-case hexadecimal digits. */
export function isJournalId(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{16}$/.test(value)
}

/** @throws {TypeError} if the value cannot be the identity of a journal. */
export function journalId(name: string, value: unknown): string {
  if (isJournalId(value)) return value
  throw new TypeError(`Expected \`${name}\` to be the id of a journal, 16 lower-case hexadecimal digits, got ${shown(value)}`)
}

/**
 * Accepts an AbortSignal or undefined. The check looks at the shape of the value, because a signal
 * from jsdom, or from a `node:vm` context as test runners use them, is not an instance of the class
 * in this realm.
 *
 * @throws {TypeError} if the value is neither an AbortSignal nor undefined.
 */
export function signalOption(value: unknown): AbortSignal | undefined {
  if (value === undefined || isAbortSignal(value)) return value
  throw new TypeError(`Expected \`signal\` to be an AbortSignal, got ${shown(value)}`)
}

function isAbortSignal(value: unknown): value is AbortSignal {
  if (!isObject(value)) return false
  const { aborted, addEventListener, removeEventListener } = value as { readonly [Name in keyof AbortSignal]?: unknown }
  const isTarget = typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  return isTarget && typeof aborted === 'boolean'
}

/**
 * Returns file permissions in the form that `chmod` takes, or undefined if none are given.
 *
 * @throws {TypeError} if the value is not a number.
 * @throws {RangeError} if the number is not a whole number from 0o600 to 0o777, or does not let the
 *   owner read and write the file.
 */
export function permissions(name: string, value: unknown): number | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'number') throw new TypeError(`Expected \`${name}\` to be a number such as 0o600, got ${shown(value)}`)
  const isUsable = Number.isSafeInteger(value) && value >= 0 && value <= 0o777 && (value & 0o600) === 0o600
  if (isUsable) return value
  const got = Number.isSafeInteger(value) && value >= 0 ? `0o${value.toString(8)}` : String(value)
  throw new RangeError(`Expected \`${name}\` to be from 0o600 to 0o777, reading and writing by the owner included, got ${got}`)
}

/** @throws {TypeError} if the value is neither a boolean nor undefined. */
export function boolean(name: string, value: unknown, limits: { readonly default: boolean }): boolean {
  if (value === undefined) return limits.default
  if (typeof value !== 'boolean') throw new TypeError(`Expected \`${name}\` to be true or false, got ${shown(value)}`)
  return value
}

export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/**
 * Returns the known name that was most likely meant, or undefined if none is close. A close name is
 * equal except for case, starts with the given name, or differs in at most two letters.
 */
export function nearest(given: string, known: readonly string[]): string | undefined {
  const name = given.toLowerCase()
  const same = known.find((candidate) => candidate.toLowerCase() === name)
  const longer = known.find((candidate) => candidate.toLowerCase().startsWith(name))
  const [near] = known
    .map((candidate) => ({ candidate, edits: editDistance(candidate.toLowerCase(), name) }))
    .filter(({ edits }) => edits <= 2)
    .toSorted((left, right) => left.edits - right.edits)
  return same ?? longer ?? near?.candidate
}

/**
 * Returns the number of letters to insert, delete or change to turn one word into the other
 * (Levenshtein).
 */
function editDistance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, column) => column)
  for (let line = 1; line <= left.length; line++) {
    const next = [line]
    for (let column = 1; column <= right.length; column++) {
      const isSame = left[line - 1] === right[column - 1]
      const changed = (row[column - 1] as number) + (isSame ? 0 : 1)
      next.push(Math.min((row[column] as number) + 1, (next[column - 1] as number) + 1, changed))
    }
    row = next
  }
  return row[right.length] as number
}

/** Formats a value for an error message. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return `\`${JSON.stringify(value.slice(0, 60))}\` (string)`
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return 'an array'
  return isObject(value) ? 'an object' : `\`${String(value)}\` (${typeof value})`
}

/** @throws {TypeError} if the value is not iterable. */
export function iterable<T>(name: string, value: Iterable<T>): Iterable<T> {
  const isIterable = typeof value === 'string' || (isObject(value) && Symbol.iterator in value)
  if (!isIterable) throw new TypeError(`Expected \`${name}\` to be iterable, got ${shown(value)}`)
  return value
}

/**
 * Returns the path that a caller gave. A `file:` URL becomes the path of its file.
 *
 * A URL is recognized by its shape, because one from a `node:vm` context, as test runners use them,
 * is not an instance of the class in this realm. A query or a fragment is refused: `new URL` reads
 * the `#` of a file name as one, and without it the path would be that of another file.
 *
 * @throws {TypeError} if the value is neither a non-empty string without NUL nor a `file:` URL of a
 *   file on this machine.
 */
export function filePath(path: unknown, name = 'path'): string {
  if (typeof path === 'string' && path !== '' && !path.includes('\0')) return path
  if (isUrl(path)) return pathOfUrl(path.href, name)
  throw new TypeError(`Expected \`${name}\` to be a non-empty string without NUL, or a \`file:\` URL, got ${shown(path)}`)
}

/** Whether a value is a URL, by its shape. */
export function isUrl(value: unknown): value is Pick<URL, 'href' | 'protocol'> {
  if (!isObject(value)) return false
  const { href, protocol } = value as { readonly href?: unknown; readonly protocol?: unknown }
  return typeof href === 'string' && typeof protocol === 'string'
}

function pathOfUrl(href: string, name: string): string {
  const refused = (reason: string): TypeError =>
    new TypeError(`Expected \`${name}\` to be a path or a \`file:\` URL, got the URL ${href}: ${reason}`)
  // In the text of a URL these characters stand only before a query and a fragment.
  if (/[?#]/.test(href)) throw refused('it has a query or a fragment; write ? as %3F and # as %23')
  let path: string
  try {
    path = fileURLToPath(href)
  } catch (error) {
    throw refused(messageOf(error))
  }
  if (path.includes('\0')) throw refused('its path includes NUL')
  return path
}

/**
 * Returns the option `expectedSequence` of an append.
 *
 * @throws {TypeError | RangeError} if another option is given, or if the value is neither 0 nor a
 *   sequence number.
 */
export function expectedSequenceOf(options: unknown): number | undefined {
  if (options === undefined) return undefined
  const { expectedSequence } = fields(options, ['expectedSequence'])
  return expectedSequence === undefined ? undefined : integer('expectedSequence', expectedSequence, { min: 0 })
}

/** Longest duration that an option accepts, in milliseconds: more than 300 years. */
export const maxMs: number = 10 ** 13

/** @throws {TypeError} if the value is not a function. */
export function callback<Callback extends AnyFunction>(name: string, value: unknown): Callback {
  if (typeof value === 'function') return value as Callback
  throw new TypeError(`Expected \`${name}\` to be a function, got ${shown(value)}`)
}

/** @throws {TypeError} if the value is neither a function nor undefined. */
export function optionalCallback<Callback extends AnyFunction>(name: string, value: unknown): Callback | undefined {
  return value === undefined ? undefined : callback(name, value)
}

type AnyFunction = (...given: never[]) => unknown
