import { constants } from 'node:buffer'

import { describe, expect, test, vi } from 'vitest'

import { SnapStore } from '../../src/minisnap/index.ts'
import { type Operation, SimulatedFileSystem } from '../../src/testing/index.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const mebibyte = 1024 * 1024

describe('a large state', () => {
  // With some of these shifts a surrogate pair falls on the border of two pieces, wherever that is.
  test.each([0, 1, 2, 3, 4])('of several pieces reads back unchanged, shifted by %i', async (shift) => {
    const files = new SimulatedFileSystem()
    const store = new SnapStore('/snaps', { fileSystem: files })
    const states = [
      'x'.repeat(shift) + '😀'.repeat(mebibyte),
      'ä'.repeat(shift) + '€'.repeat(mebibyte),
      `${'x'.repeat(mebibyte - 4 + shift)}😀${'x'.repeat(mebibyte - 4 + shift)}😀`,
    ]
    for (const [sequence, state] of states.entries()) {
      await store.create(state, sequence)
      const found = await store.restore()
      // Compared with ===, because a failed toBe would print megabytes.
      expect(found?.state === state).toBe(true)
      await store.verify(sequence)
      expect(files.readFile(`/snaps/snapshot-${sequence}.json`).includes(JSON.stringify(state))).toBe(true)
    }
  })

  test('is written in pieces of at most one mebibyte, each awaited', async () => {
    const fs = new ObservedFileSystem()
    const sizes: number[] = []
    let turns = 0
    const open = fs.open.bind(fs)
    fs.open = async (path, mode) => {
      const file = await open(path, mode)
      const write = file.write.bind(file)
      return Object.assign(file, {
        write: (bytes: Uint8Array, position: number) => {
          sizes.push(bytes.length)
          setImmediate(() => turns++)
          return write(bytes, position)
        },
      })
    }
    const store = new SnapStore(await temporaryDirectory(), { fileSystem: fs })
    const { bytes } = await store.create('y'.repeat(5 * mebibyte), 1)
    expect(Math.max(...sizes)).toBe(mebibyte)
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(bytes)
    // Other tasks ran in between: all but the last small pieces go through the thread pool.
    expect(turns).toBeGreaterThan(4)
    expect((await store.restore())?.sequence).toBe(1)
    expect(fs.openFiles).toBe(0)
  })

  test('with damage in its last piece is detected by verify, which reads it in pieces', async () => {
    const files = new SimulatedFileSystem()
    const store = new SnapStore('/snaps', { fileSystem: files })
    await store.create('z'.repeat(3 * mebibyte), 1)
    const bytes = files.readFile('/snaps/snapshot-1.json')
    bytes[bytes.length - 10] = 0x20
    files.writeFile('/snaps/snapshot-1.json', bytes)
    const sizes: number[] = []
    files.onOperation(({ operation, length = 0 }: Operation) => operation === 'read' && sizes.push(length))
    await expect(store.verify(1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED' })
    expect(sizes.length).toBeGreaterThan(4)
    expect(Math.max(...sizes)).toBe(mebibyte)
  })
})

describe('the longest string of the platform', () => {
  const limit = new RegExp(`longer than ${constants.MAX_STRING_LENGTH} bytes \\(\\d+ MiB\\)`)
  const refused = { code: 'ERR_MINISTORE_STATE_TOO_LARGE' }
  const tooLong = (): never => {
    throw new RangeError('Invalid string length')
  }

  test('is the limit for a state of JSON and for the output of a codec', async () => {
    const fileSystem = new SimulatedFileSystem()
    const created = (options: object): Promise<unknown> => {
      const spy = vi.spyOn(JSON, 'stringify').mockImplementation(tooLong)
      try {
        return new SnapStore<string>('/snaps', { ...options, fileSystem }).create('text', 1)
      } finally {
        spy.mockRestore()
      }
    }
    const codec = { encode: tooLong, decode: String }
    for (const options of [{}, { codec }, { codec: { encode: () => 'as JSON too long', decode: String } }]) {
      const creation = created(options)
      await expect(creation).rejects.toMatchObject(refused)
      await expect(creation).rejects.toThrow(limit)
    }
    expect(fileSystem.exists('/snaps')).toBe(false)
  })

  test('counts in bytes, so that every written snapshot can be read', async () => {
    const fileSystem = new SimulatedFileSystem()
    const text = '€'.repeat(10)
    // Simulates characters that each take a twelfth of the limit.
    const bytes = vi.spyOn(Buffer, 'byteLength').mockImplementation((given) =>
      Math.floor(constants.MAX_STRING_LENGTH / 12) * (given as string).length)
    try {
      const store = new SnapStore('/snaps', { fileSystem })
      // With its quotes the text has twelve characters, which fits.
      await store.create(text, 1)
      for (const frozen of [true, false]) {
        await expect(store.create(`${text}€`, 2, { frozen })).rejects.toMatchObject(refused)
      }
    } finally {
      bytes.mockRestore()
    }
    expect(fileSystem.names('/snaps')).toEqual(['snapshot-1.json'])
  })

  test('cannot hold a larger file: restore says so without reading its state', async () => {
    const files = new SimulatedFileSystem()
    await new SnapStore('/snaps', { fileSystem: files }).create('x'.repeat(100), 1)
    const open = files.open.bind(files)
    let reads = 0
    files.open = async (path, mode) => {
      const file = await open(path, mode)
      const stat = file.stat.bind(file)
      const read = file.read.bind(file)
      const grown = 2 * constants.MAX_STRING_LENGTH
      return Object.assign(file, {
        stat: async () => ({ ...(await stat()), size: grown }),
        read: (buffer: Uint8Array, position: number) => {
          reads += 1
          // A read far into the file returns its end.
          if (position > 1000) return Promise.resolve(Buffer.from('}\n').copy(buffer))
          return read(buffer, position)
        },
      })
    }
    const store = new SnapStore('/snaps', { fileSystem: files })
    await expect(store.restore()).rejects.toMatchObject({ ...refused, sequence: 1, path: '/snaps/snapshot-1.json' })
    await expect(store.restore()).rejects.toThrow(limit)
    expect(reads).toBe(4)
  })
})
