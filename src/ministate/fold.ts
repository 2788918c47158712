import { MiniStoreError } from '../errors.ts'
import { ignoreOutcome, isThenable } from '../async.ts'
import type { Journal } from './journal.ts'
import { mutate } from './mutation.ts'
import type { StateDefinition } from './settings.ts'

/** A state and the sequence number of the last mutation that is in it. */
export interface StateAt<State> {
  readonly state: State
  readonly sequence: number
}

/** The part of a definition that does not depend on its mutations. */
export type InitialState<State> = Pick<StateDefinition<State, unknown>, 'initialState'>

/** @throws {TypeError} when there is none. */
export function initialStateOf<State>({ initialState }: InitialState<State>): StateAt<State> {
  const state = initialState()
  if (state === undefined || isThenable(state)) {
    if (isThenable(state)) ignoreOutcome(state)
    const got = state === undefined ? 'undefined' : 'a promise'
    throw new TypeError(`Expected \`initialState\` to give a state, got ${got}`)
  }
  return { state, sequence: 0 }
}

/**
 * The state at `to`, rebuilt from an earlier one, which may be changed in place.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR`; `ERR_MINISTORE_STATE_GAP` when the journal gives other
 *   records than were asked for; what reading the journal ends with.
 */
export async function foldTo<State, Mutation>(
  journal: Pick<Journal<Mutation, never>, 'entries'>,
  { mutator }: StateDefinition<State, Mutation>,
  from: StateAt<State>,
  to: number,
): Promise<State> {
  let { state, sequence } = from
  if (sequence === to) return state
  for await (const entry of journal.entries({ from: sequence + 1, to })) {
    if (entry.sequence !== sequence + 1) throw wrongRecord(sequence + 1, `mutation ${entry.sequence}`)
    state = mutate(mutator, state, entry)
    sequence = entry.sequence
  }
  if (sequence !== to) throw wrongRecord(sequence + 1, 'its end')
  return state
}

function wrongRecord(expected: number, got: string): MiniStoreError {
  const message = `Expected the journal to give mutation ${expected} next, got ${got}`
  return new MiniStoreError('ERR_MINISTORE_STATE_GAP', message, { sequence: expected })
}
