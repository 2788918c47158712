import { join } from 'node:path'

import { expect, test } from 'vitest'

import { type FileSystem, MiniStore, nodeFileSystem } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const mutations = 1_000_000
const tail = 1000
const maxBytesPerSegment = 64 * 1024

const title = 'a state of a million mutations with a snapshot near the end opens by its tail alone'
test(title, { timeout: 120_000 }, async () => {
  const directory = await temporaryDirectory()
  const path = join(directory, 'journal.jsonl')
  const store = await MiniStore.open<number>(path, { maxBytesPerSegment })
  const batch = Array.from({ length: 10_000 }, () => 1)
  for (let written = 0; written < mutations; written += batch.length) await store.appendAll(batch)
  await store.close()
  await new SnapStore<number>(directory).create(mutations - tail, mutations - tail)

  const counts = { mutations: 0, bytes: 0 }
  await using manager = await StateManager.open<number, number>(directory, {
    initialState: () => 0,
    mutator: (state, by) => {
      counts.mutations += 1
      return state + by
    },
    fileSystem: countingReads((bytes) => (counts.bytes += bytes)),
    journal: { maxBytesPerSegment },
  })
  expect(manager.state).toBe(mutations)
  expect(manager.recovery).toMatchObject({ snapshotSequence: mutations - tail, replayed: tail })
  expect(counts.mutations).toBe(tail)
  // The headers of the segments, and the active segment twice: for recovery and to read the tail.
  expect(store.segments.length).toBeGreaterThan(30)
  expect(counts.bytes).toBeGreaterThan(2 * tail)
  expect(counts.bytes).toBeLessThan(4 * maxBytesPerSegment)
})

/** The real file system, with a count of the bytes read. */
function countingReads(onRead: (bytes: number) => void): FileSystem {
  return {
    ...nodeFileSystem,
    open: async (path, mode) => {
      const file = await nodeFileSystem.open(path, mode)
      const read = file.read.bind(file)
      file.read = async (buffer, position) => {
        const bytes = await read(buffer, position)
        onRead(bytes)
        return bytes
      }
      return file
    },
  }
}
