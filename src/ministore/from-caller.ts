import { isThenable } from '../async.ts'
import type { MiniStoreError } from '../errors.ts'

/** Carries what a function of the caller's threw past our own handling of errors. */
export class FromCaller extends Error {
  constructor(cause: unknown) {
    super('A function of the caller threw', { cause })
  }
}

/** Tells the caller's function of damage. A promise only when the function gives one. */
export function tellDamage(
  salvage: (damage: MiniStoreError) => unknown,
  damage: MiniStoreError,
): void | Promise<void> {
  try {
    const told = salvage(damage)
    return isThenable(told) ? settled(told) : undefined
  } catch (error) {
    throw new FromCaller(error)
  }
}

async function settled(told: PromiseLike<unknown>): Promise<void> {
  try {
    await told
  } catch (error) {
    throw new FromCaller(error)
  }
}
