import { join } from 'node:path'

import type { Entries } from '../data/changes.ts'
import { loadPackage } from '../packages.ts'
import type { StateKeeper } from './state-keeper.ts'

/** As much of lowdb as is used. */
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

/** The whole state written to a new file that takes the place of the old one, for every change. */
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

/** The same as lowdb does it, without any sync. */
export async function lowdb(): Promise<StateKeeper> {
  const name = 'lowdb'
  const { exports, version } = await loadPackage<LowdbExports>(name)
  // Its presets keep everything in memory where NODE_ENV says that this is a test.
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
