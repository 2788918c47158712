/** Options as the caller passed them, by name. */
export type Fields = Readonly<Record<string, unknown>>

/**
 * Copies the options into an object of known names. Misspelled names are refused, because they
 * would silently select defaults. Without options the result is empty.
 *
 * @throws {TypeError} if the options are not an object or contain an unknown name.
 */
export function fields(options: unknown, known: readonly string[]): Fields {
  if (options === undefined) return {}
  if (!isObject(options) || Array.isArray(options)) {
    throw new TypeError(`Expected options to be an object, got ${shown(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    const near = nearest(name, known)
    const hint = near === undefined ? `known are ${known.join(', ')}` : `did you mean \`${near}\`?`
    throw new TypeError(`Unknown option \`${name}\`: ${hint}`)
  }
  return { ...options }
}

/**
 * Returns a whole number from `least` (default: 1) to `most` (default: `Number.MAX_SAFE_INTEGER`),
 * or `otherwise` if the value is undefined.
 *
 * @throws {TypeError} if the value is not a number.
 * @throws {RangeError} if the number is not whole or is out of range.
 */
export function integer(
  name: string,
  value: unknown,
  limits: { readonly otherwise?: number; readonly least?: number; readonly most?: number } = {},
): number {
  if (value === undefined && limits.otherwise !== undefined) return limits.otherwise
  const { least = 1, most = Number.MAX_SAFE_INTEGER } = limits
  if (typeof value !== 'number') throw new TypeError(`Expected \`${name}\` to be a whole number, got ${shown(value)}`)
  if (!Number.isSafeInteger(value) || value < least || value > most) {
    const bounds = most === Number.MAX_SAFE_INTEGER ? `${least} or greater` : `from ${least} to ${most}`
    throw new RangeError(`Expected \`${name}\` to be a whole number, ${bounds}, got ${value}`)
  }
  return value
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
export function boolean(name: string, value: unknown, otherwise: boolean): boolean {
  if (value === undefined) return otherwise
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

/** @throws {TypeError} if the value is not a non-empty string without NUL. */
export function filePath(path: unknown, name = 'path'): string {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new TypeError(`Expected \`${name}\` to be a non-empty string without NUL, got ${shown(path)}`)
  }
  return path
}

/** Longest duration that an option accepts, in milliseconds: more than 300 years. */
export const maxMs: number = 10 ** 13

/**
 * Returns a number from `least` to `most` (default: `Number.MAX_VALUE`), or `otherwise` if the
 * value is undefined. The number need not be whole.
 *
 * @throws {TypeError} if the value is not a number.
 * @throws {RangeError} if the number is out of range.
 */
export function finiteNumber(
  name: string,
  value: unknown,
  limits: { readonly otherwise: number; readonly least: number; readonly most?: number },
): number {
  if (value === undefined) return limits.otherwise
  const { least, most = Number.MAX_VALUE } = limits
  if (typeof value !== 'number') {
    throw new TypeError(`Expected \`${name}\` to be a number, got ${shown(value)}`)
  }
  if (value >= least && value <= most) return value
  const bounds = most === Number.MAX_VALUE ? `${least} or greater` : `from ${least} to ${most}`
  throw new RangeError(`Expected \`${name}\` to be a number, ${bounds}, got ${value}`)
}

/**
 * Returns what {@link integer} returns, but also accepts `Infinity`.
 *
 * @throws {TypeError | RangeError} if {@link integer} throws.
 */
export function integerOrInfinity(
  name: string,
  value: unknown,
  limits: Parameters<typeof integer>[2],
): number {
  return value === Number.POSITIVE_INFINITY ? value : integer(name, value, limits)
}
