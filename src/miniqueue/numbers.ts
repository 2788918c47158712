import { integer, shown } from '../options.ts'

/** More than 300 years: the longest time that can be asked for. */
export const maxMs: number = 10 ** 13

/** A number within limits, which need not be whole. @throws {TypeError | RangeError} for anything else. */
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

/** As `integer`, or `Infinity`. @throws {TypeError | RangeError} for anything else. */
export function integerOrInfinity(
  name: string,
  value: unknown,
  limits: Parameters<typeof integer>[2],
): number {
  return value === Number.POSITIVE_INFINITY ? value : integer(name, value, limits)
}
