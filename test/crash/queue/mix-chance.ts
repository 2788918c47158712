import type { Random } from '../../../src/testing/random.ts'

/** Picks one of the choices, of which there must be at least one. */
export function pick<T>(random: Random, choices: readonly T[]): T {
  return choices[random.below(choices.length)] as T
}

/** Picks one of the choices; undefined if there are none. */
export function anyOf<T>(random: Random, choices: readonly T[]): T | undefined {
  return choices[random.below(Math.max(1, choices.length))]
}

/** Takes one out of the choices; undefined if there are none. */
export function takeAny<T>(random: Random, choices: T[]): T | undefined {
  return choices.splice(random.below(Math.max(1, choices.length)), 1)[0]
}
