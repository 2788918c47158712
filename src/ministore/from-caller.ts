import type { MiniStoreError } from '../errors.ts'

/** Carries what a function of the caller's threw past our own handling of errors. */
export class FromCaller extends Error {
  constructor(cause: unknown) {
    super('A function of the caller threw', { cause })
  }
}

/** Tells the caller's function of damage. */
export function tellDamage(salvage: (damage: MiniStoreError) => void, damage: MiniStoreError): void {
  try {
    salvage(damage)
  } catch (error) {
    throw new FromCaller(error)
  }
}
