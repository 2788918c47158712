import { expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

const path = '/journal.jsonl'

test('a record whose fsync failed and that could not be cut off is durable once the next open has shown it', async () => {
  const disk = new SimulatedFileSystem()
  const store = await MiniStore.open<number>(path, { fileSystem: disk })
  await store.append(1)
  disk.failOn({ operation: 'dataSync', path }, 'EIO')
  disk.failOn({ operation: 'truncate', path }, 'EIO')
  await expect(store.append(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  await store.close()

  // The same running system still shows the record, though the disk never got it.
  const again = await MiniStore.open<number>(path, { fileSystem: disk })
  expect(await again.replay()).toEqual([1, 2])
  await again.append(3)
  const afterPowerCut = disk.afterCrash({ keep: 'none' })
  expect(await MiniStore.replay(path, { fileSystem: afterPowerCut })).toEqual([1, 2, 3])
  await again.close()
})

test('a record whose fsync failed is cut off, so that no open takes it for durable', async () => {
  const disk = new SimulatedFileSystem()
  const store = await MiniStore.open<number>(path, { fileSystem: disk })
  await store.append(1)
  disk.failOn({ operation: 'dataSync', path }, 'EIO')
  await expect(store.append(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  await store.close()
  expect(await MiniStore.replay(path, { fileSystem: disk })).toEqual([1])
})
