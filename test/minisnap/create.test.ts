import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { MiniStoreError, SnapStore } from '../../src/minisnap/index.ts'
import { type Operation, SimulatedFileSystem } from '../../src/testing/index.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const directory = '/data/deep'

function simulated(keep = 2): { readonly files: SimulatedFileSystem; readonly store: SnapStore } {
  const files = new SimulatedFileSystem()
  return { files, store: new SnapStore(directory, { keep, fileSystem: files }) }
}

describe('create', () => {
  test('writes one line of JSON with sequence number, checksum and state', async () => {
    const path = join(await temporaryDirectory(), 'made', 'when missing')
    const store = new SnapStore(path)
    const state = { name: 'ä€😀', list: [1, null, true] }
    const info = await store.create(state, 17)
    const text = readFileSync(join(path, 'snapshot-17.json'), 'utf8')
    const checksum = crc32(JSON.stringify(state)).toString(16).padStart(8, '0')
    expect(text).toBe(`{"seq":17,"crc32":"${checksum}","state":${JSON.stringify(state)}}\n`)
    expect(JSON.parse(text)).toEqual({ seq: 17, crc32: checksum, state })
    expect(info).toEqual({ sequence: 17, path: join(path, 'snapshot-17.json'), bytes: Buffer.byteLength(text) })
    expect(readdirSync(path)).toEqual(['snapshot-17.json'])
  })

  test('writes the journal that the state comes from, and the checksum covers it', async () => {
    const { files, store } = simulated()
    const journal = '5c1e9a70b2f4d833'
    const info = await store.create({ total: 3 }, 17, { journal })
    const text = files.readFile(info.path).toString()
    const checksum = crc32(`${journal}{"total":3}`).toString(16).padStart(8, '0')
    expect(text).toBe(`{"seq":17,"crc32":"${checksum}","journal":"${journal}","state":{"total":3}}\n`)
    expect(info.bytes).toBe(text.length)
    expect(await store.restore()).toEqual({ state: { total: 3 }, sequence: 17, journal, damaged: [] })
    await store.verify(17)
    // The example of the format page.
    expect(readFileSync(join(import.meta.dirname, '../../src/minisnap/FORMAT.md'), 'utf8')).toContain(text)
  })

  test.each([undefined, '5c1e9a70b2f4d833'])('with the journal %s is found damaged for every flipped bit and every cut', async (journal) => {
    const { files, store } = simulated()
    const { path } = await store.create(7, 1, { journal })
    const whole = files.readFile(path)
    const damaged = { code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED' }
    for (let bit = 0; bit < 8 * whole.length; bit++) {
      const flipped = Buffer.from(whole)
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
      files.writeFile(path, flipped)
      await expect(store.restore(), `bit ${bit}`).rejects.toMatchObject(damaged)
    }
    for (let length = 0; length < whole.length; length++) {
      files.writeFile(path, whole.subarray(0, length))
      await expect(store.verify(1), `${length} bytes`).rejects.toMatchObject(damaged)
    }
    // The head of the other form in its place is damage, too.
    const other = whole.toString().replace(`"journal":"${journal}",`, '')
    files.writeFile(path, journal === undefined ? other.replace('"state"', '"journal":"5c1e9a70b2f4d833","state"') : other)
    await expect(store.restore()).rejects.toMatchObject(damaged)
  })

  test('rejects a journal that is no identity, and writes nothing', async () => {
    const { files, store } = simulated()
    for (const journal of ['', 'x', 7, null]) {
      await expect(store.create(1, 1, { journal: journal as string })).rejects.toThrow(/Expected `journal` to be the id of a journal, 16/)
    }
    expect([...files.snapshot().keys()]).toEqual([])
  })

  test('writes a checksum with leading zeros in eight digits', async () => {
    const { files, store } = simulated()
    const state = Array.from({ length: 1000 }, (_, n) => n).find((n) => crc32(String(n)) < 0x1000000)
    await store.create(state, 1)
    expect(files.readFile(`${directory}/snapshot-1.json`).toString()).toMatch(/^\{"seq":1,"crc32":"0[0-9a-f]{7}",/)
    expect(await store.restore()).toMatchObject({ state })
  })

  const states = [null, true, 0, '', 'text', '"', '\\"\n\u2028\0', [], {}, [[{ a: [] }]]]

  test.each(states)('accepts %j as a state', async (state) => {
    const { store } = simulated()
    await store.create(state, 0)
    expect(await store.restore()).toEqual({ state, sequence: 0, damaged: [] })
  })

  test('first syncs a directory that it creates, then the file, its name and the removal', async () => {
    const { files, store } = simulated(1)
    const calls: string[] = []
    files.onOperation(({ operation, path, changesDisk }: Operation) => {
      if (changesDisk) calls.push(`${operation} ${path.replace(/^\/data\/deep\/?/, '') || '.'}`)
    })
    await store.create(1, 1)
    expect(calls.slice(0, 5)).toEqual([
      'syncDirectory /', 'makeDirectory /data', 'syncDirectory /', 'makeDirectory .', 'syncDirectory /data',
    ])
    calls.length = 0
    await store.create(2, 2)
    const temporary = 'snapshot-2.json.tmp'
    expect(calls.filter((call) => call !== `unlink ${temporary}`)).toEqual([
      'syncDirectory /data', `open ${temporary}`, `write ${temporary}`, `write ${temporary}`, `write ${temporary}`,
      `sync ${temporary}`, `rename ${temporary}`, 'syncDirectory .', 'unlink snapshot-1.json', 'syncDirectory .',
    ])
  })

  test('keeps the newest snapshots, two by default', async () => {
    const { files, store } = simulated(3)
    for (const sequence of [1, 2, 10, 11, 100]) await store.create(sequence, sequence)
    expect(files.names(directory)).toEqual(['snapshot-10.json', 'snapshot-100.json', 'snapshot-11.json'])
    const fewer = new SnapStore(directory, { fileSystem: files })
    expect(fewer.keep).toBe(2)
    await fewer.create('last', 100)
    expect((await fewer.list()).map(({ sequence }) => sequence)).toEqual([100, 11])
    expect(await fewer.restore()).toMatchObject({ state: 'last', sequence: 100 })
  })

  test('removes only its own snapshots', async () => {
    const { files, store } = simulated(1)
    const others = [
      'snapshot-01.json', 'snapshot-x.json', 'snapshot--1.json', 'snapshot-1.json.bak', 'asnapshot-1.json', 'x.tmp',
      'snapshot-1e3.json', 'snapshot-9007199254740993.json', 'snapshot-.json', 'snapshot-01.json.tmp', 'journal.jsonl',
    ]
    for (const name of others) files.writeFile(`${directory}/${name}`, 'not ours')
    expect(await store.exists()).toBe(false)
    expect(await store.restore()).toBeUndefined()
    for (const sequence of [1, 2, 3]) await store.create(sequence, sequence)
    expect(files.names(directory)).toEqual([...others, 'snapshot-3.json'].toSorted())
  })

  test('stores the state as of the call, in call order', async () => {
    const { files, store } = simulated(5)
    const state = { n: 1 }
    const first = store.create(state, 1)
    state.n = 2
    const second = store.create(state, 2)
    state.n = 3
    const found = store.restore()
    await Promise.all([first, second])
    expect(await found).toEqual({ state: { n: 2 }, sequence: 2, damaged: [] })
    expect(files.readFile(`${directory}/snapshot-1.json`).toString()).toContain('{"n":1}')
  })

  test('refuses a sequence number below the newest, naming both, and accepts an equal one', async () => {
    const { store } = simulated()
    await store.create('old', 7)
    await expect(store.create('older', 6)).rejects.toThrow(RangeError)
    await expect(store.create('older', 6)).rejects.toThrow(/at least 7, .*got 6/)
    await store.create('new', 7)
    expect(await store.restore()).toMatchObject({ state: 'new', sequence: 7 })
  })

  test.each([-1, 1.5, Number.NaN, 2 ** 53, Infinity])('refuses %d as a sequence number', async (sequence) => {
    const { store } = simulated()
    await expect(store.create(1, sequence)).rejects.toThrow(/Expected `sequence` to be a whole number, 0 or greater, got/)
    await expect(store.verify(sequence)).rejects.toThrow(RangeError)
    expect(await store.exists()).toBe(false)
  })

  test('works after a refused call', async () => {
    const { store } = simulated()
    const calls = [store.create(1, 1), store.create(Number.NaN, 2), store.create(0, 0), store.create(3, 3)]
    const results = await Promise.allSettled(calls)
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled'])
    expect(await store.restore()).toMatchObject({ state: 3 })
  })
})

describe('a create that fails', () => {
  test('for lack of space says so, leaves older snapshots and no temporary file, and the store is usable', async () => {
    const { files, store } = simulated()
    await store.create('old', 1)
    files.capacityBytes = 100
    const failure = await rejectionOf(store.create('x'.repeat(200), 2))
    expect(failure).toMatchObject({ code: 'ERR_MINISTORE_IO', path: `${directory}/snapshot-2.json`, sequence: 2 })
    expect(failure.message).toMatch(/no space left: disk, quota or maximum file size/)
    expect(failure.cause).toMatchObject({ code: 'ENOSPC' })
    expect(files.names(directory)).toEqual(['snapshot-1.json'])
    expect(await store.restore()).toMatchObject({ state: 'old' })
    await store.create('new', 2)
    expect(await store.restore()).toMatchObject({ state: 'new' })
  })

  test('removes leftovers of a crash before it needs the space', async () => {
    const { files, store } = simulated()
    files.writeFile(`${directory}/snapshot-1.json.tmp`, 'x'.repeat(80))
    files.capacityBytes = 100
    await store.create('new', 2)
    expect(files.names(directory)).toEqual(['snapshot-2.json'])
  })

  test.each(['sync', 'rename', 'open'] as const)('in %s leaves the older snapshots unchanged', async (operation) => {
    const { files, store } = simulated()
    await store.create('old', 2)
    files.failOn({ operation, path: /\.tmp/ }, 'EIO')
    await expect(store.create('new', 2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(files.names(directory)).toEqual(['snapshot-2.json'])
    expect(await store.restore()).toMatchObject({ state: 'old', sequence: 2 })
  })

  test('does not occur when the newest snapshot disappears while its permissions are read', async () => {
    const { files, store } = simulated()
    await store.create('old', 1)
    const fault = files.failOn({ operation: 'stat', path: `${directory}/snapshot-1.json` }, 'ENOENT')
    await store.create('new', 2)
    expect(fault.hits).toBe(1)
    expect(await store.restore()).toMatchObject({ state: 'new', sequence: 2 })
  })

  test('reports the first failure when its temporary file cannot be removed either', async () => {
    const { files, store } = simulated()
    files.failOn({ operation: 'write', path: /\.tmp/ }, 'ENOSPC')
    files.failOn({ operation: 'unlink', path: /\.tmp/, nth: 2 }, 'EIO')
    const failure = await rejectionOf(store.create('new', 1))
    expect(failure.cause).toMatchObject({ code: 'ENOSPC' })
    expect(files.names(directory)).toEqual(['snapshot-1.json.tmp'])
    await store.create('new', 1)
    expect(files.names(directory)).toEqual(['snapshot-1.json'])
  })

  test('in the directory sync has an unknown outcome, and removes nothing', async () => {
    const { files, store } = simulated(1)
    await store.create('old', 1)
    files.failOn({ operation: 'syncDirectory', path: directory }, 'EIO')
    const failure = await rejectionOf(store.create('new', 2))
    expect(failure).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN', sequence: 2 })
    expect(failure.cause).toMatchObject({ code: 'EIO' })
    expect(files.names(directory)).toEqual(['snapshot-1.json', 'snapshot-2.json'])
    await store.create('new', 2)
    expect(files.names(directory)).toEqual(['snapshot-2.json'])
  })

  const whenRemoving = ['unlink', 'list', 'syncDirectory'] as const

  test.each(whenRemoving)('in %s, while removing older snapshots, says that the new one is durable', async (operation) => {
    const { files, store } = simulated(1)
    await store.create('old', 1)
    let hasRenamed = false
    let syncs = 0
    const fault = files.failOn((at) => {
      hasRenamed ||= at.operation === 'rename'
      if (!hasRenamed || at.operation !== operation || at.path.endsWith('.tmp')) return false
      return operation !== 'syncDirectory' || ++syncs > 1
    }, 'EIO')
    const failure = await rejectionOf(store.create('new', 2))
    expect(failure).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(failure.message).toContain('older than number 2, which is durable,')
    fault.remove()
    const crashed = new SnapStore(directory, { fileSystem: files.afterCrash({ keep: 'none' }) })
    expect(await crashed.restore()).toMatchObject({ state: 'new', sequence: 2 })
    await store.create('newer', 3)
    expect(files.names(directory)).toEqual(['snapshot-3.json'])
  })
})

test('create leaves no file open, whichever call fails', async () => {
  /**
   * Creates a snapshot beside an older one. The call with this index fails, not counting `close`.
   * Resolves with the failed call.
   */
  async function createFailing(at: number): Promise<{ failed: string | undefined; openFiles: number }> {
    const fs = new ObservedFileSystem()
    const store = new SnapStore<string>(await temporaryDirectory(), { keep: 1, fileSystem: fs })
    await store.create('old', 1)
    let calls = 0
    let failed: string | undefined
    fs.hook = ({ operation, path }) => {
      if (operation === 'close' || calls++ !== at) return
      failed = `${operation} ${path}`
      throw Object.assign(new Error('EIO'), { code: 'EIO' })
    }
    await store.create('new', 2).catch((error: unknown) => expect(error).toBeInstanceOf(MiniStoreError))
    return { failed, openFiles: fs.openFiles }
  }
  let attempts = 0
  for (let failed: string | undefined = ''; failed !== undefined; attempts++) {
    const outcome = await createFailing(attempts)
    failed = outcome.failed
    expect(outcome.openFiles, failed).toBe(0)
  }
  expect(attempts).toBeGreaterThan(10)
})

describe('sweep', () => {
  test('removes only temporary files; without a directory it does nothing', async () => {
    const { files, store } = simulated()
    await store.sweep()
    expect(files.exists('/data')).toBe(false)
    await store.create(1, 1)
    files.writeFile(`${directory}/snapshot-5.json.tmp`, '{"seq":5')
    files.writeFile(`${directory}/snapshot-05.json.tmp`, 'not ours')
    await store.sweep()
    expect(files.names(directory)).toEqual(['snapshot-05.json.tmp', 'snapshot-1.json'])
  })
})

describe('list and exists', () => {
  test('use names only, newest first, and verify nothing', async () => {
    const { files, store } = simulated()
    expect([await store.exists(), await store.list()]).toEqual([false, []])
    files.writeFile(`${directory}/snapshot-9.json`, 'damaged')
    files.writeFile(`${directory}/snapshot-10.json`, '')
    expect(await store.exists()).toBe(true)
    expect(await store.list()).toEqual([
      { sequence: 10, path: `${directory}/snapshot-10.json`, bytes: 0 },
      { sequence: 9, path: `${directory}/snapshot-9.json`, bytes: 7 },
    ])
  })

  test('omit a snapshot that is removed meanwhile, and report every other failure', async () => {
    const { files, store } = simulated(3)
    for (const sequence of [1, 2, 3]) await store.create(sequence, sequence)
    const fault = files.failOn({ operation: 'stat', path: /snapshot-2/ }, 'ENOENT')
    expect((await store.list()).map(({ sequence }) => sequence)).toEqual([3, 1])
    expect(fault.hits).toBe(1)
    files.failOn({ operation: 'stat', path: /snapshot-2/ }, 'EIO')
    await expect(store.list()).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', sequence: 2 })
    files.failOn({ operation: 'list' }, 'EACCES')
    await expect(store.exists()).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', path: directory })
  })
})

async function rejectionOf(promise: Promise<unknown>): Promise<MiniStoreError> {
  const thrown: unknown = await promise.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (thrown instanceof MiniStoreError) return thrown
  throw new Error(`Expected a MiniStoreError, got ${String(thrown)}`)
}

test('removes the oldest first, so that a failure leaves the newest', async () => {
  const files = new SimulatedFileSystem()
  const many = new SnapStore<number>('/order', { keep: 4, fileSystem: files })
  for (const sequence of [1, 2, 3, 4]) await many.create(sequence, sequence)
  const removed: string[] = []
  files.onOperation(({ operation, path }) => operation === 'unlink' && !path.endsWith('.tmp') && removed.push(path))
  files.failOn({ operation: 'unlink', path: '/order/snapshot-3.json' }, 'EIO')
  const few = new SnapStore<number>('/order', { keep: 1, fileSystem: files })
  await expect(few.create(5, 5)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
  expect(removed).toEqual([1, 2, 3].map((sequence) => `/order/snapshot-${sequence}.json`))
  expect((await few.list()).map(({ sequence }) => sequence)).toEqual([5, 4, 3])
})
