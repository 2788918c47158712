import { isObject, shown } from './options.ts'

/**
 * How a record or a state becomes text and back; replaces `JSON.stringify` and `JSON.parse`, for example by
 * superjson, devalue or an encryption.
 *
 * For a record `encode` must give a non-empty text without a line feed or NUL and without half surrogate pairs;
 * anything else is refused when it is appended. For a state any text will do. Both are synchronous and may throw.
 */
export interface Codec<Input = unknown, Output = Input> {
  encode(record: Input): string
  decode(line: string): Output
}

/** @throws {TypeError} unless it has these methods or is undefined. */
export function codecOption(value: unknown, methods: readonly string[]): Codec | undefined {
  if (value === undefined) return undefined
  const isWhole = isObject(value) && methods.every((method) => typeof Reflect.get(value, method) === 'function')
  if (!isWhole) throw new TypeError(`Expected \`codec\` to have ${methods.join(' and ')}, got ${shown(value)}`)
  return value as Codec
}
