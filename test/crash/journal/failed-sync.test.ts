import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../../src/index.ts'
import { SimulatedFileSystem } from '../../../src/testing/index.ts'

const path = '/journal.jsonl'

test('a record whose fsync and rollback failed is durable once the next open has shown it', async () => {
  const disk = new SimulatedFileSystem()
  const store = await MiniStore.open<number>(path, { fileSystem: disk })
  await store.append(1)
  disk.failOn({ operation: 'dataSync', path }, 'EIO')
  disk.failOn({ operation: 'truncate', path }, 'EIO')
  await expect(store.append(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  await store.close()

  // The running system still shows the record, although it never reached the disk.
  const again = await MiniStore.open<number>(path, { fileSystem: disk })
  expect(await again.replay()).toEqual([1, 2])
  await again.append(3)
  const afterPowerCut = disk.afterCrash({ keep: 'none' })
  expect(await MiniStore.replay(path, { fileSystem: afterPowerCut })).toEqual([1, 2, 3])
  await again.close()
})

test('a record whose fsync failed is cut off, so that no open treats it as durable', async () => {
  const disk = new SimulatedFileSystem()
  const store = await MiniStore.open<number>(path, { fileSystem: disk })
  await store.append(1)
  disk.failOn({ operation: 'dataSync', path }, 'EIO')
  await expect(store.append(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  await store.close()
  expect(await MiniStore.replay(path, { fileSystem: disk })).toEqual([1])
})

/** Checks that every crash leaves exactly these records. */
async function expectInEveryCrash(disk: SimulatedFileSystem, records: readonly unknown[]): Promise<void> {
  for (const state of disk.crashStates({ seed: 1, limit: 200 })) {
    const store = await MiniStore.open(path, { fileSystem: state })
    expect(await store.replay()).toEqual(records)
    await store.close()
  }
}

describe('the next open repeats a cut whose fsync failed, before anything is appended after it', () => {
  // How many of the three lines' 18 bytes were written: none, part of a line, one line, lines and a
  // part, or all but the last byte.
  test.each(Array.from({ length: 18 }, (_, written) => written))(
    'the cut that rolls back a write after %i bytes',
    async (bytesFirst) => {
      const disk = new SimulatedFileSystem()
      const store = await MiniStore.open(path, { fileSystem: disk })
      await store.append('a')
      disk.failOn({ operation: 'write', path }, 'ENOSPC', { bytesFirst })
      disk.failOn({ operation: 'sync', path }, 'EIO')
      await expect(store.appendAll(['one', 'two', 'thr'])).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
      await store.close()
      disk.clearFaults()
      const again = await MiniStore.open(path, { fileSystem: disk })
      await again.append('two')
      await expectInEveryCrash(disk, ['a', 'two'])
      await again.close()
    },
  )

  test('the cut that removes a torn tail', async () => {
    const disk = new SimulatedFileSystem()
    const store = await MiniStore.open(path, { fileSystem: disk })
    await store.append('a')
    await store.close()
    // One line with NULs at its beginning: once these are overwritten, the rest looks like a
    // record.
    disk.writeFile(path, `${disk.readFile(path).toString()}\0\0\0\0"phantom"\n`)
    const failing = disk.failOn({ operation: 'sync', path }, 'EIO')
    await expect(MiniStore.open(path, { fileSystem: disk })).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(failing.hits).toBe(1)
    const again = await MiniStore.open(path, { fileSystem: disk })
    expect(again.recovery.torn).toBeUndefined()
    await again.append('b')
    await expectInEveryCrash(disk, ['a', 'b'])
    await again.close()
  })

  test('the cut of a record whose fsync failed', async () => {
    const disk = new SimulatedFileSystem()
    const store = await MiniStore.open(path, { fileSystem: disk })
    await store.append('a')
    disk.failOn({ operation: 'dataSync', path }, 'EIO')
    await expect(store.appendAll(['one', 'two', 'thr'])).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    await store.close()
    // The cut is visible. This open has nothing else to do, and whatever it cannot sync is not
    // durable.
    disk.failOn({ operation: 'sync', path }, 'EIO')
    await expect(MiniStore.open(path, { fileSystem: disk })).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    const again = await MiniStore.open(path, { fileSystem: disk })
    await again.append('two')
    await expectInEveryCrash(disk, ['a', 'two'])
    await again.close()
  })
})
