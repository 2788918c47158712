import { messageOf, MiniStoreError } from '../errors.ts'
import { ignoreOutcome, isThenable } from '../async.ts'
import type { Mutator } from './settings.ts'

/**
 * The state after a mutation; the given one may be changed in place.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR` when the mutator throws or gives a promise; the given
 *   state may be half changed then.
 */
export function mutate<State, Mutation>(
  mutator: Mutator<State, Mutation>,
  state: State,
  { sequence, record }: { readonly sequence: number; readonly record: Mutation },
): State {
  let result: State | void
  try {
    result = mutator(state, record, { sequence })
  } catch (error) {
    throw mutatorError(sequence, `threw: ${messageOf(error)}`, error)
  }
  if (isThenable(result)) {
    ignoreOutcome(result)
    throw mutatorError(sequence, 'gave a promise, and a state cannot wait for one')
  }
  return result === undefined ? state : result
}

function mutatorError(sequence: number, what: string, cause?: unknown): MiniStoreError {
  const message = `The mutator ${what} (mutation ${sequence})`
  return new MiniStoreError('ERR_MINISTORE_MUTATOR', message, { sequence, cause })
}
