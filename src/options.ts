/** Options as they were given, by name. */
export type Fields = Readonly<Record<string, unknown>>

/**
 * The options as an object of known names; misspelled ones are refused, they would be silent defaults.
 *
 * @throws {TypeError} for anything but an object, or for a name that is not known.
 */
export function fields(options: unknown, known: readonly string[]): Fields {
  if (options === undefined) return {}
  if (typeof options !== 'object' || options === null) {
    throw new TypeError(`Expected options to be an object, got ${shown(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    const near = known.find((candidate) => isNear(candidate.toLowerCase(), name.toLowerCase()))
    const hint = near === undefined ? `known are ${known.join(', ')}` : `did you mean \`${near}\`?`
    throw new TypeError(`Unknown option \`${name}\`: ${hint}`)
  }
  return { ...options }
}

/**
 * A whole number from 1 up to `most`, or `otherwise` when there is none.
 *
 * @throws {TypeError | RangeError} for anything else.
 */
export function integer(
  name: string,
  value: unknown,
  limits: { readonly otherwise?: number; readonly most?: number } = {},
): number {
  if (value === undefined && limits.otherwise !== undefined) return limits.otherwise
  const { most = Number.MAX_SAFE_INTEGER } = limits
  if (typeof value !== 'number') throw new TypeError(`Expected \`${name}\` to be a whole number, got ${shown(value)}`)
  if (!Number.isSafeInteger(value) || value < 1 || value > most) {
    const bounds = most === Number.MAX_SAFE_INTEGER ? '1 or greater' : `from 1 to ${most}`
    throw new RangeError(`Expected \`${name}\` to be a whole number, ${bounds}, got ${value}`)
  }
  return value
}

/** @throws {TypeError} unless it is true, false or undefined. */
export function boolean(name: string, value: unknown, otherwise: boolean): boolean {
  if (value === undefined) return otherwise
  if (typeof value !== 'boolean') throw new TypeError(`Expected \`${name}\` to be true or false, got ${shown(value)}`)
  return value
}

export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** Whether two names differ by a letter or two, or one begins with the other. */
function isNear(known: string, given: string): boolean {
  if (known.startsWith(given) || given.startsWith(known)) return true
  const missing = Array.from(given, (letter) => !known.includes(letter)).filter(Boolean).length
  return missing <= 1 && Math.abs(known.length - given.length) <= 2
}

/** A value as error messages show it. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return `\`${JSON.stringify(value.slice(0, 60))}\` (string)`
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return 'an array'
  return isObject(value) ? 'an object' : `\`${String(value)}\` (${typeof value})`
}

/** @throws {TypeError} unless it is a path that names a file. */
export function filePath(path: unknown): string {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new TypeError(`Expected \`path\` to be a non-empty string without NUL, got ${shown(path)}`)
  }
  return path
}
