import { join } from 'node:path'

import { ownVersion } from '../contestants/ministore.ts'
import type { Change, Entries } from '../data/changes.ts'
import { MiniStore, StateManager } from '../library.ts'
import type { StateKeeper } from './state-keeper.ts'

/** The library's state manager, with default options. */
export async function ministate(): Promise<StateKeeper> {
  return {
    name: 'ministate, apply',
    version: ownVersion(),
    promise: 'the change in the journal, one `fdatasync` each, then the state shows it',
    blocksEventLoop: false,
    notes: [],
    async open(directory, entries) {
      const manager = await StateManager.open(directory, {
        initialState: (): Entries => ({ ...entries }),
        mutator: (state, { key, value }: Change) => {
          state[key] = value
        },
      })
      return {
        set: (key, value) => manager.apply({ key, value }),
        close: () => manager.close(),
      }
    },
  }
}

/** Only the part of `apply` that writes to the disk: the append to the journal. */
export async function journalOnly(): Promise<StateKeeper> {
  return {
    name: 'ministore, append of the change',
    version: ownVersion(),
    promise: 'the change in the journal, one `fdatasync` each',
    blocksEventLoop: false,
    notes: ['no state'],
    async open(directory) {
      const store = await MiniStore.open<Change>(join(directory, 'journal.jsonl'))
      return {
        set: (key, value) => store.append({ key, value }),
        close: () => store.close(),
      }
    },
  }
}
