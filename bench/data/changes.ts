/** A change of one key of a state. */
export interface Change {
  readonly key: string
  readonly value: string
}

/** A state of many keys. */
export type Entries = Record<string, string>

/** Bytes of the JSON of a change. */
export const changeBytes = 100

/** A prime, so that changes come to all keys before they come to one again, and not in their order. */
const stride = 7919

/** The change of a turn, counted from 0, to a state of so many keys. Its JSON takes `changeBytes` bytes. */
export function changeAt(turn: number, keys: number): Change {
  const key = keyAt((turn * stride) % keys)
  const room = changeBytes - JSON.stringify({ key, value: '' }).length
  return { key, value: String(turn).padEnd(room, '.') }
}

/** A state of so many keys, each as if it had been changed once. */
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
