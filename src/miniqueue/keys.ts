import { keyName, type QueueState } from './queue-state.ts'
import { weightOfKept } from './weight.ts'

/** Makes a key stand for a message, unless another one that lives has it. */
export function holdKey(state: QueueState, key: string, id: number): void {
  const holder = state.keys[keyName(key)]
  if (holder === undefined || holder.until !== undefined) state.keys[keyName(key)] = { id }
}

/** Frees a key, if it stands for this message. */
export function releaseKey(state: QueueState, key: string, id: number): void {
  const holder = state.keys[keyName(key)]
  if (holder?.id === id && holder.until === undefined) delete state.keys[keyName(key)]
}

/**
 * Keeps the key of a message that is gone for a while, if it stands for it. Gives the weight that this adds.
 */
export function keepKey(
  state: QueueState,
  key: string,
  { id, until }: { readonly id: number; readonly until: number },
): number {
  const name = keyName(key)
  if (state.keys[name]?.id !== id) return 0
  state.keys[name] = { id, until }
  state.expiring.push({ key, until })
  return weightOfKept(key)
}

/**
 * Forgets keys that are free again, once at least half of those that were kept seem to be: so each costs one
 * look or two. Gives the change of weight.
 */
export function sweepKeys(state: QueueState, at: number): number {
  const { expiring } = state
  const middle = expiring[expiring.length >> 1]
  if (middle === undefined || middle.until > at) return 0
  let change = 0
  state.expiring = expiring.filter(({ key, until }) => {
    if (until > at) return true
    const name = keyName(key)
    if (state.keys[name]?.until === until) delete state.keys[name]
    change -= weightOfKept(key)
    return false
  })
  return change
}
