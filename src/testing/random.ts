/** A source of numbers that is the same in every run that begins with the same seed. */
export interface Random {
  /** A whole number of 0 or more and below `limit`. */
  below(limit: number): number
}

/**
 * Makes a random source. Several seeds count together, so that one run can have many independent sources.
 *
 * The generator is mulberry32 (Tommy Ettinger, public domain): 32 bits of state, ample for choosing test
 * cases.
 */
export function createRandom(...seeds: readonly number[]): Random {
  let state = 0x9e3779b9
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  for (const seed of seeds) state = (next() ^ seed) | 0
  return { below: (limit) => Math.floor((next() / 2 ** 32) * limit) }
}
