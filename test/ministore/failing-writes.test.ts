import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { describe, expect, test } from 'vitest'

import { MiniStore, MiniStoreError, type OpenOptions } from '../../src/index.ts'
import {
  type Fault,
  type OperationName,
  SimulatedFileSystem,
  type SystemErrorCode,
} from '../../src/testing/index.ts'
import { temporaryDirectory, temporaryProgram } from '../support/temporary-directory.ts'

const PATH = '/data/journal.jsonl'

/** A store on a simulated disk with two acknowledged records, each from its own append. */
async function openStore(
  options: OpenOptions<string> = {},
): Promise<{ files: SimulatedFileSystem; store: MiniStore<string> }> {
  const files = new SimulatedFileSystem()
  const store = await MiniStore.open<string>(PATH, { fileSystem: files, ...options })
  await store.append('one')
  await store.append('two')
  return { files, store }
}

async function errorOf(failing: Promise<unknown>): Promise<MiniStoreError> {
  const error: unknown = await failing.then(
    () => expect.unreachable('it was expected to reject'),
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(MiniStoreError)
  return error as MiniStoreError
}

/** The records that a fresh open finds on this disk. The disk stays unchanged. */
async function recordsOn(files: SimulatedFileSystem): Promise<string[]> {
  await using store = await MiniStore.open<string>(PATH, { fileSystem: files.afterKill() })
  return await store.replay()
}

/** Like {@link recordsOn}, for every state that a crash now may leave. */
async function recordsAfterCrashes(files: SimulatedFileSystem): Promise<string[][]> {
  const found: string[][] = []
  for (const state of files.crashStates()) {
    await using store = await MiniStore.open<string>(PATH, { fileSystem: state })
    found.push(await store.replay())
  }
  expect(found.length).toBeGreaterThan(0)
  return found
}

/** Collects the operations from now on, as "operation path". */
function traceOf(files: SimulatedFileSystem): string[] {
  const trace: string[] = []
  files.onOperation(({ operation, path }) => trace.push(`${operation} ${path}`))
  return trace
}

describe('a short write', () => {
  test.each([1, 2, 5])('of %i byte(s) at a time is continued until the record is whole', async (bytes) => {
    const { files, store } = await openStore()
    const fault = files.shortWriteOn({ path: PATH, times: 'always', bytes })
    expect(await store.append('three')).toBe(3)
    expect(await store.appendAll(['four', 'five'])).toEqual({ first: 4, last: 5 })
    expect(fault.hits).toBeGreaterThan(1)
    await store.close()
    expect(await recordsOn(files.afterCrash({ keep: 'none' }))).toEqual([
      'one',
      'two',
      'three',
      'four',
      'five',
    ])
  })

  test('is synced once, when the record is whole', async () => {
    const { files, store } = await openStore()
    files.shortWriteOn({ path: PATH, bytes: 3 })
    const trace = traceOf(files)
    await store.append('three')
    expect(trace).toEqual([`write ${PATH}`, `write ${PATH}`, `dataSync ${PATH}`])
  })

  test('that makes no progress without an error is a failed write, not an endless loop', async () => {
    const { files, store } = await openStore()
    const before = files.readFile(PATH)
    files.shortWriteOn({ path: PATH, times: 2, bytes: 0 })
    const error = await errorOf(store.append('three'))
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_IO',
      message: expect.stringContaining('wrote 0 of') as string,
    })
    expect(files.readFile(PATH)).toEqual(before)
    expect(await store.append('four')).toBe(3)
  })
})

describe('a failed write', () => {
  const codes: SystemErrorCode[] = ['ENOSPC', 'EDQUOT', 'EFBIG', 'EIO']
  const firstBytes = [undefined, 1, 4]
  const cases = codes.flatMap((code) => firstBytes.map((bytesFirst) => ({ code, bytesFirst })))

  test.each(cases)(
    '($code, $bytesFirst bytes first) is rolled back, and the store goes on',
    async ({ code, bytesFirst }) => {
      const { files, store } = await openStore()
      const before = files.readFile(PATH)
      const fault = files.failOn(
        { operation: 'write', path: PATH },
        code,
        bytesFirst === undefined ? {} : { bytesFirst },
      )
      const error = await errorOf(store.append('three'))
      expect(fault.hits).toBeGreaterThan(0)
      expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', path: PATH, segment: 'journal.jsonl' })
      expect(error.cause).toMatchObject({ syscall: 'write' })
      expect(files.readFile(PATH)).toEqual(before)
      // The cut is durable: no crash brings back part of the record.
      expect(await recordsAfterCrashes(files)).toEqual([['one', 'two']])
      expect(store.lastSequence).toBe(2)

      expect(await store.append('four')).toBe(3)
      expect(await store.replay()).toEqual(['one', 'two', 'four'])
      await store.close()
      expect(await recordsOn(files)).toEqual(['one', 'two', 'four'])
    },
  )

  test.each([['ENOSPC'], ['EDQUOT'], ['EFBIG']] as const)(
    'for %s says that there is no space left',
    async (code) => {
      const { files, store } = await openStore()
      files.failOn({ operation: 'write', path: PATH }, code)
      expect((await errorOf(store.append('three'))).message).toMatch(/no space left.*the store is usable/)
    },
  )

  test('for EIO does not speak of space', async () => {
    const { files, store } = await openStore()
    files.failOn({ operation: 'write', path: PATH }, 'EIO')
    expect((await errorOf(store.append('three'))).message).not.toMatch(/space/)
  })

  test('of appendAll leaves none of its records', async () => {
    const { files, store } = await openStore()
    const before = files.readFile(PATH)
    files.failOn({ operation: 'write', path: PATH }, 'ENOSPC', { bytesFirst: '"three"\n"fo'.length })
    await expect(store.appendAll(['three', 'four'])).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(files.readFile(PATH)).toEqual(before)
    expect(await store.appendAll(['five', 'six'])).toEqual({ first: 3, last: 4 })
  })

  test('does not affect the appends queued after it', async () => {
    const { files, store } = await openStore()
    files.failOn({ operation: 'write', path: PATH }, 'ENOSPC')
    const settled = await Promise.allSettled(['three', 'four', 'five'].map((record) => store.append(record)))
    expect(settled).toMatchObject([
      { status: 'rejected', reason: { code: 'ERR_MINISTORE_IO' } },
      { status: 'fulfilled', value: 3 },
      { status: 'fulfilled', value: 4 },
    ])
    expect(await store.replay()).toEqual(['one', 'two', 'four', 'five'])
  })

  test.each([['truncate'], ['sync']] as const)(
    'that cannot be rolled back (%s fails) poisons the store',
    async (operation) => {
      const { files, store } = await openStore()
      files.failOn({ operation: 'write', path: PATH }, 'ENOSPC', { bytesFirst: 3 })
      const fault = files.failOn({ operation, path: PATH }, 'EIO')
      const [inFlight, queued] = await Promise.all([
        errorOf(store.append('three')),
        errorOf(store.append('four')),
      ])
      expect(fault.hits).toBe(1)
      expect(inFlight).toMatchObject({
        code: 'ERR_MINISTORE_OUTCOME_UNKNOWN',
        message: expect.stringMatching(/ENOSPC.*rolled back.*EIO/) as string,
      })
      expect(queued.code).toBe('ERR_MINISTORE_POISONED')
      await checkOnlyCloseWorks(store)
      await store.close()
      for (const records of await recordsAfterCrashes(files)) expect(records).toEqual(['one', 'two'])
      expect(await recordsOn(files)).toEqual(['one', 'two'])
    },
  )
})

/** Expects every method except `close` to be refused with the reason. */
async function checkOnlyCloseWorks(store: MiniStore<string>): Promise<void> {
  const poisoned = {
    code: 'ERR_MINISTORE_POISONED',
    path: PATH,
    message: expect.stringContaining('Only close() works') as string,
    cause: expect.objectContaining({ code: 'ERR_MINISTORE_POISONED' }) as Error,
  }
  await expect(store.append('more')).rejects.toMatchObject(poisoned)
  await expect(store.appendAll(['more'])).rejects.toMatchObject(poisoned)
  await expect(store.replay()).rejects.toMatchObject(poisoned)
  await expect(store.rotate()).rejects.toMatchObject(poisoned)
  await expect(store.truncateBefore(1)).rejects.toMatchObject(poisoned)
  for (const method of ['writable', 'stream', 'entries'] as const) {
    expect(() => store[method]()).toThrow(expect.objectContaining({ code: poisoned.code }) as Error)
  }
}

describe('a failed fsync of an append', () => {
  test('is an unknown outcome for its record, and rejects all queued and later appends', async () => {
    const { files, store } = await openStore()
    files.failOn({ operation: 'dataSync', path: PATH }, 'EIO')
    const trace = traceOf(files)
    const [inFlight, ...queued] = await Promise.all(
      ['three', 'four', 'five'].map((record) => errorOf(store.append(record))),
    )
    expect(inFlight).toMatchObject({
      code: 'ERR_MINISTORE_OUTCOME_UNKNOWN',
      path: PATH,
      segment: 'journal.jsonl',
      sequence: 3,
      cause: { code: 'EIO', syscall: 'fdatasync' },
    })
    expect(queued.map(({ code }) => code)).toEqual(['ERR_MINISTORE_POISONED', 'ERR_MINISTORE_POISONED'])
    expect(trace.filter((operation) => operation.startsWith('write'))).toEqual([`write ${PATH}`])
    expect(store.lastSequence).toBe(2)
    await checkOnlyCloseWorks(store)
  })

  test('is never followed by another sync or write of the file, not even on close', async () => {
    const { files, store } = await openStore()
    const fault = files.failOn({ operation: 'dataSync', path: PATH }, 'EIO')
    let after: string[] = []
    files.onOperation(({ operation, path }) => {
      after = fault.hits === 0 ? [] : [...after, `${operation} ${path}`]
    })
    await Promise.all(['three', 'four'].map((record) => errorOf(store.append(record))))
    await errorOf(store.append('five'))
    await errorOf(store.rotate())
    await store.close()
    expect(after).toContain(`close ${PATH}`)
    expect(after.filter((operation) => /sync|write|rename|unlink|seal/i.test(operation))).toEqual([])
  })

  test('lets close resolve and free the lock, and the journal can be reopened', async () => {
    const { files, store } = await openStore()
    files.failOn({ operation: 'dataSync', path: PATH }, 'EIO')
    await errorOf(store.append('three'))
    await expect(store.close()).resolves.toBeUndefined()
    await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
    const found = await again.replay()
    expect(found.slice(0, 2)).toEqual(['one', 'two'])
    expect(found.length).toBe(again.lastSequence)
    expect(await again.append('next')).toBe(found.length + 1)
    expect(await again.replay()).toEqual([...found, 'next'])
  })

  test.each([[1], [2]])(
    'leaves a journal that, once reopened, loses no acknowledged record in a crash (%i record(s))',
    async (count) => {
      const { files, store } = await openStore()
      files.failOn({ operation: 'dataSync', path: PATH }, 'EIO')
      await errorOf(store.appendAll(Array.from({ length: count }, (_, at) => `unknown ${at}`)))
      await store.close()

      const again = await MiniStore.open<string>(PATH, { fileSystem: files })
      const found = await again.replay()
      for (const records of await recordsAfterCrashes(files)) expect(records).toEqual(found)
      await again.append('next')
      for (const records of await recordsAfterCrashes(files)) expect(records).toEqual([...found, 'next'])
      await again.close()
    },
  )

  test('may or may not keep its record: every crash leaves the other records, and at most this one more', async () => {
    const { files, store } = await openStore()
    files.failOn({ operation: 'dataSync', path: PATH }, 'EIO')
    await errorOf(store.append('three'))
    for (const records of await recordsAfterCrashes(files)) {
      expect(records.slice(0, 2)).toEqual(['one', 'two'])
      expect([undefined, 'three']).toContain(records[2])
      expect(records.length).toBeLessThanOrEqual(3)
    }
  })

  test('ends followers and readers with the poison, not with a quiet end', async () => {
    const { files, store } = await openStore()
    const follower = store.stream({ follow: true }).values()
    expect(await follower.next()).toEqual({ done: false, value: 'one' })
    expect(await follower.next()).toEqual({ done: false, value: 'two' })
    files.failOn({ operation: 'dataSync', path: PATH }, 'EIO')
    const waiting = follower.next()
    const [appended, followed] = await Promise.all([errorOf(store.append('three')), errorOf(waiting)])
    expect(appended.code).toBe('ERR_MINISTORE_OUTCOME_UNKNOWN')
    expect(followed.code).toBe('ERR_MINISTORE_POISONED')
  })
})

/** A segment size small enough that the third record begins a new segment. */
const ROTATING = { maxBytesPerSegment: 70 }

interface Step {
  readonly what: string
  readonly operation: OperationName
  readonly path: string
  readonly nth?: number
  readonly code: 'ERR_MINISTORE_IO' | 'ERR_MINISTORE_POISONED'
}

const NEXT = `${PATH}.next`
const SEAL = `${PATH}.seal`
const FIRST_SEALED = `${PATH}.001`

/** Every step of a rotation that may fail, in order. `nth` counts from the call of append. */
const steps: Step[] = [
  { what: 'looking at the permissions', operation: 'stat', path: PATH, code: 'ERR_MINISTORE_IO' },
  { what: 'removing the seal', operation: 'unlink', path: SEAL, code: 'ERR_MINISTORE_IO' },
  {
    what: 'making that durable',
    operation: 'syncDirectory',
    path: '/data',
    nth: 1,
    code: 'ERR_MINISTORE_POISONED',
  },
  { what: 'removing an old .next', operation: 'unlink', path: NEXT, code: 'ERR_MINISTORE_IO' },
  { what: 'creating .next', operation: 'open', path: NEXT, code: 'ERR_MINISTORE_IO' },
  { what: 'writing .next', operation: 'write', path: NEXT, code: 'ERR_MINISTORE_IO' },
  { what: 'syncing .next', operation: 'sync', path: NEXT, code: 'ERR_MINISTORE_POISONED' },
  { what: 'looking at .next', operation: 'stat', path: NEXT, code: 'ERR_MINISTORE_IO' },
  { what: 'renaming the full segment', operation: 'rename', path: FIRST_SEALED, code: 'ERR_MINISTORE_IO' },
  {
    what: 'making that durable',
    operation: 'syncDirectory',
    path: '/data',
    nth: 2,
    code: 'ERR_MINISTORE_POISONED',
  },
  { what: 'renaming .next', operation: 'rename', path: NEXT, code: 'ERR_MINISTORE_POISONED' },
  {
    what: 'making that durable',
    operation: 'syncDirectory',
    path: '/data',
    nth: 3,
    code: 'ERR_MINISTORE_POISONED',
  },
]

function fail(files: SimulatedFileSystem, { operation, path, nth = 1 }: Step): Fault {
  return files.failOn({ operation, path, nth }, 'EIO')
}

describe('a failed rotation', () => {
  test('is tested at every possible step', async () => {
    const { files, store } = await openStore(ROTATING)
    const trace = traceOf(files)
    await store.append('three')
    await store.close()
    const whole = trace.slice(0, trace.indexOf(`close ${FIRST_SEALED}`))
    // Before each rename or removal, the directory and the open files are compared with the files
    // at their names.
    const rotation = whole.filter((operation) => !/^(stat|lock) /.test(operation))
    const counts = new Map<string, number>()
    const tried = steps.filter(({ operation }) => operation !== 'stat').map(({ operation, path }) =>
      path === FIRST_SEALED ? `${operation} ${PATH}` : `${operation} ${path}`,
    )
    for (const operation of rotation) counts.set(operation, (counts.get(operation) ?? 0) + 1)
    expect(rotation).toEqual(tried)
    expect(counts.get('syncDirectory /data')).toBe(3)
  })

  test.each(steps)(
    '($what: $operation $path, $nth) rejects the append with $code, which was not written',
    async (step) => {
      const { files, store } = await openStore(ROTATING)
      const fault = fail(files, step)
      const error = await errorOf(store.append('three'))
      expect(fault.hits).toBe(1)
      expect(error.code).toBe(step.code)
      expect(error.path).toBe(PATH)
      for (const [, bytes] of files.snapshot()) expect(bytes.includes('three')).toBe(false)
      expect(store.lastSequence).toBe(2)

      if (step.code === 'ERR_MINISTORE_IO') {
        expect(error.message).toMatch(/^Could not rotate: EIO/)
        expect(await store.replay()).toEqual(['one', 'two'])
        expect(await store.append('four')).toBe(3)
        expect(await store.replay()).toEqual(['one', 'two', 'four'])
        expect(store.segments).toHaveLength(2)
      } else {
        await checkOnlyCloseWorks(store)
      }
      await store.close()
      const acknowledged = step.code === 'ERR_MINISTORE_IO' ? ['one', 'two', 'four'] : ['one', 'two']
      expect(await recordsOn(files)).toEqual(acknowledged)
      await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
      expect(await again.append('five')).toBe(acknowledged.length + 1)
      expect(await again.replay()).toEqual([...acknowledged, 'five'])
    },
  )

  test.each(steps)(
    '($what: $operation $path, $nth) leaves every acknowledged record once in every crash state',
    async (step) => {
      const { files, store } = await openStore(ROTATING)
      fail(files, step)
      await errorOf(store.append('three'))
      for (const records of await recordsAfterCrashes(files)) expect(records).toEqual(['one', 'two'])
    },
  )

  test.each(steps)('($what: $operation $path, $nth) rejects rotate() in the same way', async (step) => {
    const { files, store } = await openStore(ROTATING)
    const fault = fail(files, step)
    expect((await errorOf(store.rotate())).code).toBe(step.code)
    expect(fault.hits).toBe(1)
    await store.close()
    expect(await recordsOn(files)).toEqual(['one', 'two'])
  })

  test.each(steps)(
    '($what: $operation $path, $nth) leaves no file open once the store is closed',
    async (step) => {
      const { files, store } = await openStore(ROTATING)
      // openStore left three open: the journal, its lock and its directory.
      let open = 3
      const fault = fail(files, step)
      files.onOperation(({ operation, path }) => {
        const isFailing = step.operation === 'open' && path === step.path && fault.hits === 0
        if (operation === 'open' && !isFailing) open += 1
        if (operation === 'close') open -= 1
      })
      await errorOf(store.append('three'))
      await store.close()
      expect(open).toBe(0)
    },
  )

  test.each([['write', NEXT], ['rename', FIRST_SEALED]] as const)(
    'in %s of %s closes the leftover .next, which may then be removed by hand',
    async (operation, path) => {
      const { files, store } = await openStore(ROTATING)
      files.failOn({ operation, path }, 'EIO')
      // The first call removes a leftover, the second one the file that this rotation began.
      files.failOn({ operation: 'unlink', path: NEXT, nth: 2 }, 'EIO')
      expect(await errorOf(store.rotate())).toMatchObject({ code: 'ERR_MINISTORE_IO' })
      files.clearFaults()
      await files.unlink(NEXT)
      await store.rotate()
      expect(await store.append('three')).toBe(3)
      await store.close()
    },
  )

  test('also fails the appends queued after it if it poisons, and otherwise only itself', async () => {
    for (const code of ['ERR_MINISTORE_IO', 'ERR_MINISTORE_POISONED'] as const) {
      const { files, store } = await openStore(ROTATING)
      fail(files, steps.find((step) => step.code === code) as Step)
      const settled = await Promise.allSettled(['three', 'four'].map((record) => store.append(record)))
      const later = code === 'ERR_MINISTORE_IO' ? { value: 3 } : { reason: { code } }
      expect(settled).toMatchObject([{ reason: { code } }, later])
    }
  })

  test('by a failed close of the sealed file does not fail the append: no data is at risk', async () => {
    const { files, store } = await openStore(ROTATING)
    const fault = files.failOn({ operation: 'close', path: FIRST_SEALED }, 'EIO')
    expect(await store.append('three')).toBe(3)
    expect(fault.hits).toBe(1)
  })

  test('does not lose the seal when nothing more is appended', async () => {
    const { files, store } = await openStore()
    await store.close()
    const again = await MiniStore.open<string>(PATH, { fileSystem: files, ...ROTATING })
    const seal = files.readFile(SEAL)
    files.failOn({ operation: 'open', path: NEXT }, 'ENOSPC')
    expect((await errorOf(again.append('three'))).code).toBe('ERR_MINISTORE_IO')
    await again.close()
    expect(files.exists(SEAL)).toBe(true)
    expect(files.readFile(SEAL)).toEqual(seal)
  })

  test.each([
    ['unlink', 'ERR_MINISTORE_IO'],
    ['syncDirectory', 'ERR_MINISTORE_POISONED'],
  ] as const)('by %s in retention rejects the append, which was not written', async (operation, code) => {
    const { files, store } = await openStore({ maxBytesPerSegment: 70, maxSegments: 1 })
    // The fourth sync of the directory is the first one of retention.
    files.failOn(
      {
        operation,
        path: operation === 'unlink' ? FIRST_SEALED : '/data',
        nth: operation === 'unlink' ? 1 : 4,
      },
      'EIO',
    )
    const error = await errorOf(store.append('three'))
    expect(error.code).toBe(code)
    expect(error.message).toMatch(/delete journal\.jsonl\.001/)
    for (const records of await recordsAfterCrashes(files))
      expect([[], ['one', 'two']]).toContainEqual(records)
    await store.close()
    await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
    expect(await again.append('four')).toBe(3)
  })
})

describe('retention', () => {
  test.each([['ENOSPC'], ['EIO'], ['EACCES']] as const)(
    'remembers a segment whose deletion failed with %s, and deletes it the next time',
    async (code) => {
      const { files, store } = await openStore({ maxBytesPerSegment: 1 })
      await store.append('three')
      const before = store.segments
      files.failOn({ operation: 'unlink', path: FIRST_SEALED }, code)
      expect(await errorOf(store.truncateBefore(3))).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code } })
      expect([store.firstSequence, store.segments]).toEqual([1, before])
      expect(await store.replay()).toEqual(['one', 'two', 'three'])
      await store.truncateBefore(3)
      expect([store.firstSequence, store.segments]).toEqual([3, before.slice(2)])
      expect(files.exists(FIRST_SEALED)).toBe(false)
      await store.close()
      expect(await recordsOn(files)).toEqual(['three'])
    },
  )

  test('deletes at the next rotation the segments that an earlier one could not delete', async () => {
    const { files, store } = await openStore({ maxBytesPerSegment: 1, maxSegments: 2 })
    files.failOn({ operation: 'unlink', path: FIRST_SEALED }, 'EIO')
    await errorOf(store.append('three'))
    expect(store.firstSequence).toBe(1)
    await store.append('three')
    await store.append('four')
    expect([store.firstSequence, store.segments.length]).toEqual([3, 2])
    expect(files.exists(FIRST_SEALED)).toBe(false)
    await store.close()
  })

  test('counts a segment removed by another process as deleted, and continues', async () => {
    const { files, store } = await openStore({ maxBytesPerSegment: 1, maxSegments: 2 })
    await files.unlink(FIRST_SEALED)
    expect(await store.append('three')).toBe(3)
    expect(await store.append('four')).toBe(4)
    expect(store.segments).toHaveLength(2)
    await store.close()
  })
})

describe('close', () => {
  test.each([
    ['the seal cannot be created', 'open', `${SEAL}.tmp`],
    ['the seal cannot be written', 'write', `${SEAL}.tmp`],
    ['the seal cannot be synced', 'sync', `${SEAL}.tmp`],
    ['the seal cannot be renamed', 'rename', `${SEAL}.tmp`],
    ['the directory cannot be synced', 'syncDirectory', '/data'],
    ['the journal cannot be closed', 'close', PATH],
    ['the lock cannot be closed', 'close', `${PATH}.lock`],
  ] as const)(
    'rejects when %s, but still closes every file and frees the lock',
    async (_what, operation, path) => {
      const files = new SimulatedFileSystem()
      const open = countOpenFiles(files)
      const { store } = await openStore({ fileSystem: files })
      const fault = files.failOn({ operation, path }, 'EIO')
      expect(await errorOf(store.close())).toMatchObject({ code: 'ERR_MINISTORE_IO', path: PATH })
      expect(fault.hits).toBe(1)
      expect([...open].filter(([, count]) => count > 0)).toEqual([])
      await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
      expect(await again.replay()).toEqual(['one', 'two'])
    },
  )
})

describe('open', () => {
  /** A journal of three records in two segments, changed as a crash may leave it. */
  const damages: Array<[what: string, damage: (files: SimulatedFileSystem) => void | Promise<void>]> = [
    ['a journal whose seal is behind', () => {}],
    ['a torn tail', (files) => files.writeFile(PATH, `${files.readFile(PATH).toString()}"fo`)],
    [
      'a half-made next segment and a half-made seal',
      (files) => {
        files.writeFile(NEXT, '// MINI')
        files.writeFile(`${SEAL}.tmp`, 'bytes=')
      },
    ],
    ['no active segment', (files) => files.rename(PATH, `${PATH}.002`)],
    [
      'half a header',
      (files) => {
        files.writeFile(`${PATH}.002`, files.readFile(PATH))
        files.writeFile(PATH, '// MINISTORE JOUR')
      },
    ],
  ]

  test.each(damages)(
    'of %s, failing at any operation, leaves no file open and loses nothing',
    async (_, damage) => {
      const { files: original, store } = await openStore(ROTATING)
      await store.append('three')
      await damage(original)
      const left: string[] = []
      let index = 0
      for (let isFailing = true; isFailing; index++) {
        const files = original.afterKill()
        const trace = traceOf(files)
        const open = countOpenFiles(files)
        const at = index
        const fault = files.failOn((operation) => operation.index === at, 'EIO')
        const outcome = await MiniStore.open<string>(PATH, { fileSystem: files }).catch(
          (thrown: unknown) => thrown,
        )
        isFailing = fault.hits > 0
        fault.remove()
        const failure = {
          name: 'MiniStoreError',
          code: expect.stringMatching(/_IO|_LOCK_UNAVAILABLE/) as string,
        }
        if (outcome instanceof MiniStore) await outcome.close()
        else expect(outcome).toMatchObject(failure)
        for (const [path, count] of open) if (count > 0) left.push(`${path} after ${trace[at]} had failed`)
        expect(await recordsOn(files)).toEqual(['one', 'two', 'three'])
        // The lock is free, and a second attempt in the same process works.
        await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
        expect(again.lastSequence).toBe(3)
      }
      expect(index).toBeGreaterThan(10)
      expect(left).toEqual([])
    },
  )
})

test('close reports the first of two failures', async () => {
  const { files, store } = await openStore()
  files.failOn({ operation: 'close', path: `${PATH}.lock` }, 'ENOSPC')
  files.failOn({ operation: 'close', path: PATH }, 'EIO')
  expect(await errorOf(store.close())).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'EIO' } })
})

test.each(['EACCES', 'EPERM', 'EROFS'] as const)('open ignores %s when the parent directory may not be synced', async (code) => {
  const files = new SimulatedFileSystem()
  files.addDirectory('/data')
  const fault = files.failOn({ operation: 'syncDirectory', path: '/' }, code)
  await using store = await MiniStore.open<string>(PATH, { fileSystem: files })
  expect(fault.hits).toBe(1)
  expect(await store.append('one')).toBe(1)
})

test('open creates no directory when it cannot check whether the directory exists', async () => {
  const { files, store } = await openStore()
  await store.close()
  const trace = traceOf(files)
  files.failOn({ operation: 'stat', path: '/data', times: 'always' }, 'EIO')
  const error = await errorOf(MiniStore.open(PATH, { fileSystem: files }))
  expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'EIO', syscall: 'stat' } })
  expect(trace.filter((call) => call.startsWith('makeDirectory'))).toEqual([])
})

/** Counts the open files from now on, by the path that each was opened with. */
function countOpenFiles(files: SimulatedFileSystem): ReadonlyMap<string, number> {
  const counts = new Map<string, number>()
  const count = (path: string, by: number): unknown => counts.set(path, (counts.get(path) ?? 0) + by)
  const open = files.open.bind(files)
  files.open = async (path, mode) => {
    const file = await open(path, mode)
    count(path, 1)
    const close = file.close.bind(file)
    file.close = () => {
      count(path, -1)
      return close()
    }
    return file
  }
  return counts
}

describe('a full disk', () => {
  /** The bytes of all files. */
  function usedBytes(files: SimulatedFileSystem): number {
    return [...files.snapshot().values()].reduce((sum, { length }) => sum + length, 0)
  }

  test('refuses an append for lack of space, and accepts it when there is room again', async () => {
    const { files, store } = await openStore()
    files.capacityBytes = usedBytes(files) + 10
    const before = files.readFile(PATH)
    const error = await errorOf(store.append('much too long a record'))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'ENOSPC' } })
    expect(error.message).toMatch(/no space left/)
    expect(files.readFile(PATH)).toEqual(before)
    expect(await store.append('small')).toBe(3)
    files.capacityBytes = Infinity
    expect(await store.append('much too long a record')).toBe(4)
    await store.close()
    expect(await recordsOn(files)).toEqual(['one', 'two', 'small', 'much too long a record'])
  })

  test('refuses an append that must rotate, and accepts it when there is room again', async () => {
    const { files, store } = await openStore(ROTATING)
    // A rotation removes the seal first, which makes room.
    files.capacityBytes = usedBytes(files) - files.readFile(SEAL).length + 10
    const error = await errorOf(store.append('three'))
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_IO',
      message: expect.stringMatching(/rotate: ENOSPC/) as string,
    })
    expect(await store.replay()).toEqual(['one', 'two'])
    files.capacityBytes = Infinity
    expect(await store.append('three')).toBe(3)
    await store.close()
    expect(await recordsOn(files)).toEqual(['one', 'two', 'three'])
  })

  test.each([0, 1, 20])(
    'with room for %i byte(s) allows closing, opening and reading a journal: the seal is optional',
    async (room) => {
      const { files, store } = await openStore()
      files.capacityBytes = usedBytes(files) + room
      const seal = files.readFile(SEAL)
      await store.close()
      expect(files.readFile(SEAL)).toEqual(seal)

      await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
      expect(await again.replay()).toEqual(['one', 'two'])
      expect(files.readFile(SEAL)).toEqual(seal)
      expect(await MiniStore.replay<string>(PATH, { fileSystem: files })).toEqual(['one', 'two'])
    },
  )

  test('that is full at open and has room at close gets the seal at close', async () => {
    const { files, store } = await openStore()
    const image = files.afterKill()
    await store.close()
    image.capacityBytes = usedBytes(image)
    const again = await MiniStore.open<string>(PATH, { fileSystem: image })
    expect(image.exists(SEAL) && image.readFile(SEAL).equals(files.readFile(SEAL))).toBe(false)
    image.capacityBytes = Infinity
    await again.close()
    expect(image.readFile(SEAL)).toEqual(files.readFile(SEAL))
  })

  test('gives its last bytes to records: a seal that does not fit takes no space', async () => {
    const { files, store } = await openStore()
    const image = files.afterKill()
    await store.close()
    image.capacityBytes = usedBytes(image) + 20
    await using again = await MiniStore.open<string>(PATH, { fileSystem: image })
    expect(usedBytes(image)).toBe(image.capacityBytes - 20)
    expect(await again.append('twelve bytes')).toBe(3)
  })

  /** A journal of two records and a torn third, as a crash leaves it. */
  async function tornJournal(): Promise<SimulatedFileSystem> {
    const { files, store } = await openStore()
    await store.close()
    files.writeFile(PATH, Buffer.concat([files.readFile(PATH), Buffer.from('"thr')]))
    return files
  }

  test.each([0, 3])('with room for %i byte(s) heals a torn tail, and reports that no evidence was kept', async (room) => {
    const files = await tornJournal()
    files.capacityBytes = usedBytes(files) + room
    await using store = await MiniStore.open<string>(PATH, { fileSystem: files })
    expect(store.recovery.torn).toMatchObject({ sequence: 3, bytes: 4, savedAs: undefined })
    expect(files.names('/data').filter((name) => name.includes('torn'))).toEqual([])
    expect(await store.replay()).toEqual(['one', 'two'])
    files.capacityBytes = Infinity
    expect(await store.append('three')).toBe(3)
    expect(await recordsAfterCrashes(files)).toEqual([['one', 'two', 'three']])
  })

  const evidenceSteps = [
    ['open', 'the evidence cannot be made'],
    ['write', 'it cannot be written'],
    ['sync', 'it does not reach the disk'],
    ['rename', 'it gets no name'],
  ] as const
  for (const code of ['ENOSPC', 'EDQUOT', 'EFBIG'] as const) {
    test.each(evidenceSteps)(`(${code} at %s: %s) still heals a torn tail`, async (operation) => {
      const files = await tornJournal()
      const fault = files.failOn({ operation, path: /\.torn-3/ }, code)
      await using store = await MiniStore.open<string>(PATH, { fileSystem: files })
      expect(fault.hits).toBe(1)
      expect(store.recovery.torn).toMatchObject({ sequence: 3, bytes: 4, savedAs: undefined })
      expect(files.names('/data').filter((name) => name.includes('torn'))).toEqual([])
      expect(await recordsAfterCrashes(files)).toEqual([['one', 'two']])
    })
  }

  test.each(evidenceSteps)('is not assumed after EIO at %s of the evidence: the tail stays', async (operation) => {
    const files = await tornJournal()
    const before = files.readFile(PATH)
    files.failOn({ operation, path: /\.torn-3/ }, 'EIO')
    expect(await errorOf(MiniStore.open(PATH, { fileSystem: files }))).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(files.readFile(PATH)).toEqual(before)
    await using again = await MiniStore.open<string>(PATH, { fileSystem: files })
    expect(again.recovery.torn).toMatchObject({ bytes: 4, savedAs: `${PATH}.torn-3` })
  })

  test('has no room for a new journal: open says so, and works when there is room', async () => {
    const files = new SimulatedFileSystem({ capacityBytes: 10 })
    const error = await errorOf(MiniStore.open(PATH, { fileSystem: files }))
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_IO',
      path: PATH,
      message: expect.stringMatching(/open the journal.*ENOSPC/) as string,
    })
    files.capacityBytes = Infinity
    await using store = await MiniStore.open(PATH, { fileSystem: files })
    expect(await store.append('one')).toBe(1)
  })
})

describe('a read-only file system', () => {
  test('refuses to open a journal for writing, and says why', async () => {
    const { files, store } = await openStore()
    await store.close()
    for (const state of [files, new SimulatedFileSystem()]) {
      state.readOnly = true
      const error = await errorOf(MiniStore.open(PATH, { fileSystem: state }))
      expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', path: PATH, cause: { code: 'EROFS' } })
      expect(error.message).toMatch(/open the journal \/data\/journal\.jsonl.*EROFS/)
    }
  })

  test('lets a journal be read', async () => {
    const { files, store } = await openStore(ROTATING)
    await store.append('three')
    await store.close()
    files.readOnly = true
    expect(await MiniStore.replay<string>(PATH, { fileSystem: files })).toEqual(['one', 'two', 'three'])
  })

  test('that becomes read-only under an open store refuses appends', async () => {
    const { files, store } = await openStore()
    const before = files.readFile(PATH)
    files.readOnly = true
    const error = await errorOf(store.append('three'))
    // A read-only file system cannot cut either, so the outcome is unknown.
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_OUTCOME_UNKNOWN',
      message: expect.stringContaining('EROFS') as string,
    })
    expect(files.readFile(PATH)).toEqual(before)
    await checkOnlyCloseWorks(store)
    await store.close()
  })
})

/** Errors with which a system refuses a call temporarily, before anything has changed. */
const refusals = ['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'EACCES', 'EPERM', 'EBUSY'] as const

describe.each(refusals)('a temporary refusal (%s)', (code) => {
  const refused: ReadonlyArray<readonly [string, OperationName, string, (store: MiniStore<string>) => Promise<unknown>]> = [
    ['of opening .next', 'open', NEXT, (store) => store.append('three')],
    ['of locking .next', 'lock', NEXT, (store) => store.append('three')],
    ['of looking at the directory', 'stat', '/data', (store) => store.append('three')],
    ['of removing the seal', 'unlink', SEAL, (store) => store.append('three')],
    ['of renaming the full segment', 'rename', FIRST_SEALED, (store) => store.append('three')],
    ['of renaming .next', 'rename', NEXT, (store) => store.append('three')],
    ['of removing a segment', 'unlink', FIRST_SEALED, (store) => store.truncateBefore(3)],
  ]

  test.each(refused)('%s rejects that call, and the store stays usable', async (_, operation, path, call) => {
    const { files, store } = await openStore(ROTATING)
    const isDeletion = operation === 'unlink' && path === FIRST_SEALED
    const before = isDeletion ? ['one', 'two', 'three'] : ['one', 'two']
    if (isDeletion) await store.append('three')
    const fault = files.failOn({ operation, path }, code)
    const error = await errorOf(call(store))
    expect(fault.hits).toBe(1)
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', path: PATH })
    expect(await store.replay()).toEqual(before)
    for (const records of await recordsAfterCrashes(files)) expect(records).toEqual(before)
    // The same call again, and other calls, work as usual.
    await call(store)
    const records = isDeletion ? ['three'] : ['one', 'two', 'three']
    expect(await store.replay()).toEqual(records)
    await store.append('four')
    await store.rotate()
    await store.append('five')
    await store.close()
    for (const found of await recordsAfterCrashes(files)) expect(found).toEqual([...records, 'four', 'five'])
  })

  test('does not affect a directory sync, which opens no file: only a failed sync poisons', async () => {
    const { files, store } = await openStore(ROTATING)
    // From here on every open of the directory is refused.
    files.failOn({ operation: 'open', path: '/data', times: 'always' }, code)
    await store.append('three')
    await store.truncateBefore(3)
    await store.append('four')
    await store.close()
    expect(await recordsOn(files)).toEqual(['three', 'four'])
  })
})

test('a rename of .next that is refused, and cannot be undone either, poisons and loses nothing', async () => {
  const { files, store } = await openStore(ROTATING)
  files.failOn({ operation: 'rename', path: NEXT }, 'EACCES')
  files.failOn({ operation: 'rename', path: FIRST_SEALED, nth: 2 }, 'EACCES')
  expect((await errorOf(store.append('three'))).code).toBe('ERR_MINISTORE_POISONED')
  for (const records of await recordsAfterCrashes(files)) expect(records).toEqual(['one', 'two'])
  await store.close()
  expect(await recordsOn(files)).toEqual(['one', 'two'])
})

/** The program of a process that may open only few files. */
const crowded = `
  import { closeSync, openSync } from 'node:fs'
  import { StateManager } from ${JSON.stringify(new URL('../../dist/ministate/index.js', import.meta.url).href)}
  const [directory] = process.argv.slice(2)
  const counter = await StateManager.open(directory, {
    initialState: () => ({ sum: 0 }),
    mutator: (state, by) => void (state.sum += by),
    journal: { maxBytesPerSegment: 1 },
  })
  await counter.apply(1)
  const codes = []
  const attempt = (call) => call.then(() => 'done', (error) => error.cause?.code)
  const taken = []
  try { for (;;) taken.push(openSync('/dev/null')) } catch {}
  codes.push(await attempt(counter.apply(2)), await attempt(counter.createSnapshot()), await attempt(counter.compact()))
  for (const file of taken) closeSync(file)
  codes.push(await attempt(counter.apply(4)), await attempt(counter.createSnapshot()), await attempt(counter.compact()))
  await counter.close()
  console.log(JSON.stringify({ codes, sum: counter.state.sum }))
`

const crowdedFromTheStart = `
  import { closeSync, openSync } from 'node:fs'
  import { MiniStore } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url))}
  const [path] = process.argv.slice(2)
  const taken = []
  try { for (;;) taken.push(openSync('/dev/null')) } catch {}
  const codes = new Set()
  for (let store; store === undefined; closeSync(taken.pop())) {
    store = await MiniStore.open(path).catch((error) => void codes.add(error.code))
    await store?.close()
  }
  console.log(JSON.stringify([...codes]))
`

const isDeno = 'deno' in process.versions
if (isDeno) console.log('skipped: too many open files, because Deno ends itself when it cannot open a file of its own')

describe.skipIf(process.platform === 'win32' || isDeno)('too many open files', () => {
  test('reject an open, also while the lock is loaded, and the next one works', async () => {
    const command = 'ulimit -n 64 && exec "$0" "$@"'
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const { stdout } = await promisify(execFile)('sh', ['-c', command, process.execPath, ...(await temporaryProgram(crowdedFromTheStart)), path])
    // Bun uses the C library, which is loaded already.
    const ofTheLock = 'bun' in process.versions ? [] : ['ERR_MINISTORE_LOCK_UNAVAILABLE']
    expect(JSON.parse(stdout)).toEqual(['ERR_MINISTORE_IO', ...ofTheLock])
  })

  test('reject a rotation, a snapshot and a compaction, and poison nothing', async () => {
    const command = 'ulimit -n 64 && exec "$0" "$@"'
    const directory = await temporaryDirectory()
    const { stdout } = await promisify(execFile)('sh', ['-c', command, process.execPath, ...(await temporaryProgram(crowded)), directory])
    expect(JSON.parse(stdout)).toEqual({ codes: ['EMFILE', 'EMFILE', 'EMFILE', 'done', 'done', 'done'], sum: 5 })
  })
})
