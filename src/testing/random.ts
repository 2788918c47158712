/** A source of numbers that repeats exactly when it starts with the same seeds. */
export interface Random {
  /** Returns a whole number from 0 to `limit - 1`. */
  below(limit: number): number
}

/**
 * Creates a random source. The seeds are combined, so that one run can have many independent
 * sources.
 *
 * The generator is mulberry32 (Tommy Ettinger, public domain). Its 32 bits of state are ample for
 * choosing test cases.
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
