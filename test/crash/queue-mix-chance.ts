import type { Random } from '../../src/testing/random.ts'

/** One of several that there are. */
export function pick<T>(random: Random, choices: readonly T[]): T {
  return choices[random.below(choices.length)] as T
}

/** One of as many as there are; undefined when there is none. */
export function anyOf<T>(random: Random, choices: readonly T[]): T | undefined {
  return choices[random.below(Math.max(1, choices.length))]
}

/** Takes one out, if there is one. */
export function takeAny<T>(random: Random, choices: T[]): T | undefined {
  return choices.splice(random.below(Math.max(1, choices.length)), 1)[0]
}
