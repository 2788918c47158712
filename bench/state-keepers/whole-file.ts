import { join } from 'node:path'

import type { Entries } from '../data/changes.ts'
import { loadPackage } from '../packages.ts'
import type { StateKeeper } from './state-keeper.ts'

/** The part of lowdb that the bench uses. */
interface Low {
  update(change: (data: Entries) => void): Promise<void>
  write(): Promise<void>
}

interface LowdbExports {
  readonly Low: new (adapter: object, data: Entries) => Low
}

interface LowdbNodeExports {
  readonly JSONFile: new (path: string) => object
}

type WriteFileAtomic = (path: string, text: string) => Promise<void>

/** Writes the whole state to a new file for every change, and replaces the old file with it. */
export async function writeFileAtomic(): Promise<StateKeeper> {
  const name = 'write-file-atomic'
  const { exports, version } = await loadPackage<{ readonly default: WriteFileAtomic }>(name)
  const write = exports.default
  return {
    name: `${name} of the whole state`,
    version,
    promise: 'file synced, then renamed; no directory sync: a power cut may bring the old state back',
    blocksEventLoop: false,
    notes: ['the whole state for each change'],
    async open(directory, entries) {
      const path = join(directory, 'state.json')
      const state = { ...entries }
      await write(path, JSON.stringify(state))
      return {
        set(key, value) {
          state[key] = value
          return write(path, JSON.stringify(state))
        },
        close: async () => {},
      }
    },
  }
}

/** Replaces the whole file for every change, as lowdb does: without any sync. */
export async function lowdb(): Promise<StateKeeper> {
  const name = 'lowdb'
  const { exports, version } = await loadPackage<LowdbExports>(name)
  // lowdb's presets keep all data in memory if NODE_ENV is `test`, so the adapter is used directly.
  const { exports: files } = await loadPackage<LowdbNodeExports>(name, 'lowdb/node')
  return {
    name: `${name}, update`,
    version,
    promise: 'file written, then renamed, nothing synced: after a power cut it may be empty',
    blocksEventLoop: false,
    notes: ['the whole state for each change', 'not durable'],
    because: 'it never waits for the disk: nothing of it is durable',
    async open(directory, entries) {
      const database = new exports.Low(new files.JSONFile(join(directory, 'state.json')), { ...entries })
      await database.write()
      return {
        set: (key, value) =>
          database.update((data) => {
            data[key] = value
          }),
        close: async () => {},
      }
    },
  }
}
