import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { SnapStore } from '../../src/minisnap/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

const directory = '/snaps'
const pathOf = (sequence: number): string => `${directory}/snapshot-${sequence}.json`

async function withSnapshots(...sequences: number[]): Promise<{
  readonly files: SimulatedFileSystem
  readonly store: SnapStore<{ readonly n: number }>
}> {
  const files = new SimulatedFileSystem()
  const store = new SnapStore<{ readonly n: number }>(directory, { keep: 10, fileSystem: files })
  for (const sequence of sequences) await store.create({ n: sequence }, sequence)
  return { files, store }
}

function flip(files: SimulatedFileSystem, sequence: number, byte = 40): void {
  const bytes = files.readFile(pathOf(sequence))
  bytes[byte] = (bytes[byte] ?? 0) ^ 1
  files.writeFile(pathOf(sequence), bytes)
}

describe('restore', () => {
  test('returns undefined without a snapshot or without a directory', async () => {
    const { files, store } = await withSnapshots()
    expect(await store.restore()).toBeUndefined()
    files.addDirectory(directory)
    expect(await store.restore()).toBeUndefined()
  })

  test('returns the newest snapshot by number, or the newest up to a limit', async () => {
    const { store } = await withSnapshots(0, 9, 10, 100)
    expect(await store.restore()).toEqual({ state: { n: 100 }, sequence: 100, damaged: [] })
    expect(await store.restore({ atMost: 100 })).toMatchObject({ sequence: 100 })
    expect(await store.restore({ atMost: 99 })).toMatchObject({ sequence: 10 })
    expect(await store.restore({ atMost: 8 })).toMatchObject({ sequence: 0 })
    const { store: none } = await withSnapshots(5)
    expect(await none.restore({ atMost: 4 })).toBeUndefined()
  })

  test('returns a separate state each time', async () => {
    const { store } = await withSnapshots(1)
    const [one, two] = await Promise.all([store.restore(), store.restore()])
    expect(one?.state).toEqual(two?.state)
    expect(one?.state).not.toBe(two?.state)
  })

  test.each([{ atMost: -1 }, { atMost: 1.5 }, { atMost: '1' }, { atmost: 1 }, 7])('refuses %j', async (options) => {
    const { store } = await withSnapshots(1)
    const refused = store.restore(options as never)
    await expect(refused).rejects.toThrow(/Expected `atMost`|did you mean `atMost`|Expected options to be an object/)
  })
})

describe('damage', () => {
  test('of any bit is found, reported and left in place, and the older snapshot is restored', async () => {
    const { files, store } = await withSnapshots(1, 2)
    const whole = files.readFile(pathOf(2))
    let flips = 0
    for (let bit = 0; bit < 8 * whole.length; bit++) {
      const bytes = Buffer.from(whole)
      bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      files.writeFile(pathOf(2), bytes)
      const found = await store.restore()
      expect(found, `bit ${bit}`).toMatchObject({ state: { n: 1 }, sequence: 1 })
      expect(found?.damaged).toMatchObject([{ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED', sequence: 2, path: pathOf(2) }])
      await expect(store.verify(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED' })
      expect(files.readFile(pathOf(2))).toEqual(bytes)
      flips++
    }
    expect(flips).toBeGreaterThan(300)
  })

  test('that makes the file shorter or longer is found', async () => {
    const { files, store } = await withSnapshots(1, 2)
    const whole = files.readFile(pathOf(2))
    const lengths = Array.from({ length: whole.length }, (_, length) => whole.subarray(0, length))
    const longer = ['\n', '}\n', ' ', '\0', whole.toString()].map((text) => Buffer.concat([whole, Buffer.from(text)]))
    for (const bytes of [...lengths, ...longer]) {
      files.writeFile(pathOf(2), bytes)
      expect(await store.restore(), `${bytes.length} bytes`).toMatchObject({ sequence: 1, damaged: [{ sequence: 2 }] })
      await expect(store.verify(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED' })
    }
    files.writeFile(pathOf(2), whole)
    expect(await store.restore()).toEqual({ state: { n: 2 }, sequence: 2, damaged: [] })
    await expect(store.verify(2)).resolves.toBeUndefined()
  })

  test.each([
    ['another sequence number than its name', '{"seq":1,"crc32":"1ae9d4ed","state":{"n":1}}\n', /sequence number 1/],
    ['a sequence number with a leading zero', '{"seq":02,"crc32":"1ae9d4ed","state":{"n":1}}\n', /its beginning is not/],
    ['blanks, as another program would write it', '{"seq": 2, "crc32": "1ae9d4ed", "state": {"n":1}}\n', /its beginning is not/],
    ['a checksum in capitals', '{"seq":2,"crc32":"1AE9D4ED","state":{"n":1}}\n', /its beginning is not/],
  ])('that is %s is found', async (_, text, reason) => {
    const { files, store } = await withSnapshots(1)
    files.writeFile(pathOf(2), text)
    const found = await store.restore()
    expect(found?.sequence).toBe(1)
    expect(found?.damaged[0]?.message).toMatch(reason)
  })

  test('with a correct checksum is still found: invalid UTF-8, invalid JSON', async () => {
    const { files, store } = await withSnapshots(1)
    for (const [state, reason] of [
      [Buffer.from([0x22, 0xff, 0x22]), /not UTF-8/],
      [Buffer.from('{"n":1'), /not JSON/],
      [Buffer.from('1 2'), /not JSON/],
    ] as const) {
      const head = `{"seq":2,"crc32":"${crc32(state).toString(16).padStart(8, '0')}","state":`
      files.writeFile(pathOf(2), Buffer.concat([Buffer.from(head), state, Buffer.from('}\n')]))
      const found = await store.restore()
      expect(found?.sequence).toBe(1)
      expect(found?.damaged[0]?.message).toMatch(reason)
    }
  })

  test('of several snapshots is skipped, newest first', async () => {
    const { files, store } = await withSnapshots(1, 2, 3, 4)
    flip(files, 4)
    flip(files, 3)
    const found = await store.restore()
    expect(found).toMatchObject({ state: { n: 2 }, damaged: [{ sequence: 4 }, { sequence: 3 }] })
    expect((await store.restore({ atMost: 3 }))?.damaged).toMatchObject([{ sequence: 3 }])
  })

  test('of all snapshots is an error, caused by the newest, and never an empty result', async () => {
    const { files, store } = await withSnapshots(1, 2, 3)
    for (const sequence of [1, 2]) flip(files, sequence)
    await expect(store.restore({ atMost: 2 })).rejects.toMatchObject({
      code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED',
      sequence: 2,
      cause: { sequence: 2, path: pathOf(2) },
    })
    await expect(store.restore({ atMost: 2 })).rejects.toThrow(/snapshot-2\.json is damaged.*snapshot-1\.json is damaged/)
    expect(await store.restore()).toMatchObject({ sequence: 3 })
  })

  test('that restore() has found excludes the snapshot from the newest and from those kept', async () => {
    const { files, store } = await withSnapshots(1, 2, 5)
    flip(files, 5)
    await expect(store.create({ n: 3 }, 3)).rejects.toThrow(/at least 5.*If that snapshot is damaged, call restore\(\)/)
    await store.restore()
    const two = new SnapStore<unknown>(directory, { keep: 2, fileSystem: files })
    await two.restore()
    await two.create({ n: 3 }, 3)
    expect(files.names(directory)).toEqual([2, 3, 5].map((sequence) => `snapshot-${sequence}.json`))
    await two.create({ n: 6 }, 6)
    expect(files.names(directory)).toEqual([3, 5, 6].map((sequence) => `snapshot-${sequence}.json`))
    await two.create({ n: 7 }, 7)
    expect(files.names(directory)).toEqual([6, 7].map((sequence) => `snapshot-${sequence}.json`))
  })

  test('that verify() has found also excludes the snapshot, until it is rewritten or brought back', async () => {
    const { files, store } = await withSnapshots(1, 5)
    const whole = files.readFile(pathOf(5))
    flip(files, 5)
    await expect(store.verify(5)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED' })
    await store.create({ n: 2 }, 2)
    files.writeFile(pathOf(5), whole)
    expect(await store.restore()).toMatchObject({ sequence: 5 })
    await expect(store.create({ n: 3 }, 3)).rejects.toThrow(RangeError)
    flip(files, 5)
    await store.restore()
    await store.create({ n: 50 }, 5)
    await expect(store.create({ n: 3 }, 3)).rejects.toThrow(RangeError)
  })
})

describe('a failure other than damage', () => {
  const operations = ['open', 'stat', 'read', 'list', 'syncDirectory'] as const

  test.each(operations)('in %s is thrown, and no older snapshot is restored', async (operation) => {
    const { files, store } = await withSnapshots(1, 2)
    const calls = files.failOn({ operation, path: operation === 'list' ? directory : /snaps/ }, 'EIO')
    const error = { code: 'ERR_MINISTORE_IO', cause: { code: 'EIO' } }
    await expect(store.restore()).rejects.toMatchObject(error)
    expect(calls.hits).toBe(1)
    expect(await store.restore()).toMatchObject({ sequence: 2 })
  })

  test('verify distinguishes a missing snapshot from an unreadable one', async () => {
    const { files, store } = await withSnapshots(1)
    await expect(store.verify(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', sequence: 2, cause: { code: 'ENOENT' } })
    files.failOn({ operation: 'read' }, 'EIO')
    await expect(store.verify(1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'EIO' } })
  })

  test('a read-only directory can be read', async () => {
    const { files, store } = await withSnapshots(1)
    for (const code of ['EROFS', 'EACCES'] as const) {
      const fault = files.failOn({ operation: 'syncDirectory' }, code)
      expect(await store.restore()).toMatchObject({ sequence: 1 })
      expect(fault.hits).toBe(1)
    }
  })
})

describe('another process that writes at the same time', () => {
  test('removes the snapshot about to be read: the newer one is restored', async () => {
    const { files, store } = await withSnapshots(1)
    const writer = new SnapStore(directory, { keep: 1, fileSystem: files })
    let writing: Promise<unknown> | undefined
    const open = files.open.bind(files)
    files.open = async (path, mode) => {
      if (mode === 'read' && writing === undefined) await (writing = writer.create({ n: 2 }, 2))
      return await open(path, mode)
    }
    expect(await store.restore()).toEqual({ state: { n: 2 }, sequence: 2, damaged: [] })
  })

  test('replaces the snapshot being read: one of the two states is restored whole', async () => {
    const { files, store } = await withSnapshots(1)
    const writer = new SnapStore(directory, { fileSystem: files })
    let writing: Promise<unknown> | undefined
    files.onOperation(({ operation }) => {
      if (operation === 'read') writing ??= writer.create({ n: 'replaced' }, 1)
    })
    expect(await store.restore()).toEqual({ state: { n: 1 }, sequence: 1, damaged: [] })
    await writing
    expect(await store.restore()).toMatchObject({ state: { n: 'replaced' } })
  })

  test('keeps removing snapshots: restore gives up with an error', async () => {
    const { files, store } = await withSnapshots(1)
    const fault = files.failOn({ operation: 'open', times: 'always' }, 'ENOENT')
    await expect(store.restore()).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'ENOENT' } })
    expect(fault.hits).toBe(10)
  })
})
