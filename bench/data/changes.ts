/** A change of one key of a state. */
export interface Change {
  readonly key: string
  readonly value: string
}

/** A state of many keys. */
export type Entries = Record<string, string>

/** Size of a change as JSON, in bytes. */
export const changeBytes = 100

/**
 * A prime. For every number of keys that is not a multiple of it, changes reach all keys before
 * they reach any key again, and not in the order of the keys.
 */
const stride = 7919

/**
 * The change of a turn, counted from 0, in a state of `keys` keys. Its JSON takes `changeBytes`
 * bytes.
 */
export function changeAt(turn: number, keys: number): Change {
  const key = keyAt((turn * stride) % keys)
  const room = changeBytes - JSON.stringify({ key, value: '' }).length
  return { key, value: String(turn).padEnd(room, '.') }
}

/** A state of `keys` keys, as the changes of turns 0 to `keys - 1` leave it. */
export function entriesOf(keys: number): Entries {
  const entries: Entries = {}
  for (let turn = 0; turn < keys; turn++) {
    const { key, value } = changeAt(turn, keys)
    entries[key] = value
  }
  return entries
}

function keyAt(place: number): string {
  return `key-${String(place).padStart(7, '0')}`
}
