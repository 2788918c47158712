import { setImmediate as turn } from 'node:timers/promises'

import { type File, type FileSystem, MiniStore } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { elsewhere } from '../../support/elsewhere.ts'
import { journalPath } from '../journal/model.ts'
import type { Check } from './checks.ts'

/** The same disk with a `dataSync` that takes a few turns of the event loop, so that others run meanwhile. */
function slowly(files: SimulatedFileSystem): FileSystem {
  const slow = (file: File): File => ({
    read: (buffer, position) => file.read(buffer, position),
    write: (bytes, position) => file.write(bytes, position),
    truncate: (length) => file.truncate(length),
    sync: () => file.sync(),
    dataSync: async () => {
      for (let turns = 0; turns < 5; turns++) await turn()
      await file.dataSync()
    },
    stat: () => file.stat(),
    close: () => file.close(),
  })
  return {
    ...elsewhere(files),
    open: async (path, mode, access) => slow(await files.open(path, mode, access)),
    lock: () => Promise.resolve(true),
  }
}

/** Records of one length, so that a record in another's place would fit. */
const recordAt = (n: number): string => `record ${n + 1000}`

export const followerChecks: readonly Check[] = [
  [
    'followers: a record is durable when a follower in the process gets it',
    async ({ newFiles }) => {
      const files = newFiles()
      const store = await MiniStore.open<string>(journalPath, { fileSystem: slowly(files) })
      const live = store.stream({ follow: true }).values()
      for (let n = 1; n <= 4; n++) {
        const next = live.next()
        await turn()
        const appended = store.append(recordAt(n))
        const { value } = await next
        for (const state of files.crashStates({ seed: 1, limit: 20 })) {
          if (state.snapshot().get(journalPath)?.includes(String(value)) === true) continue
          throw new Error(`a follower was given ${JSON.stringify(value)}, which a crash takes away again`)
        }
        await appended
      }
      await live.return()
      await store.close()
    },
  ],
  [
    'followers: one that is a segment behind gets each record, and its own',
    async ({ newFiles }) => {
      const store = await MiniStore.open<string>(journalPath, { fileSystem: newFiles() })
      const [near, behind] = [store.stream({ follow: true }).values(), store.stream({ follow: true }).values()]
      const firsts = [near.next(), behind.next()]
      await turn()
      await store.append(recordAt(1))
      await Promise.all(firsts)
      for (let n = 2; n <= 4; n++) await store.append(recordAt(n))
      await store.rotate()
      for (let n = 5; n <= 9; n++) await store.append(recordAt(n))
      for (const live of [near, behind]) {
        for (let n = 2; n <= 9; n++) {
          const { value } = await live.next()
          if (value !== recordAt(n)) throw new Error(`a follower was given ${JSON.stringify(value)} as record ${n}`)
        }
        await live.return()
      }
      await store.close()
    },
  ],
]
