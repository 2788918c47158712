/** Returns a seed for this run. `MINISTORE_SEED` repeats a printed one. */
export function pickSeed(name: string): number {
  const given = process.env['MINISTORE_SEED']
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number.parseInt(given, 10)
  console.log(`${name}: seed ${seed} (repeat it with MINISTORE_SEED=${seed})`)
  return seed
}

/**
 * Random whole numbers from 0 up to, but not including, a limit. Equal seeds give equal numbers
 * (mulberry32).
 */
export function seededRandom(seed: number): (limit: number) => number {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}
