import { appendFile, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import {
  type File,
  type FileSystem,
  MiniStore,
  MiniStoreError,
  nodeFileSystem,
  type TornTail,
} from '../../src/index.ts'
import { inspectJournal } from '../../src/maintenance/inspect.ts'
import { repairJournal } from '../../src/maintenance/repair.ts'
import { parseSeal } from '../../src/ministore/format.ts'
import { verifyJournal } from '../../src/maintenance/verify.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const name = 'journal.jsonl'
const id = '5c1e9a70b2f4d833'
const header = `// MINISTORE JOURNAL v0.3.0 seq=1 id=${id}\n`

type Content = Readonly<Record<string, string | Uint8Array>>

/** Creates a directory with these files; each key is the suffix after the journal's name. */
async function journalWith(content: Content): Promise<string> {
  const directory = await temporaryDirectory()
  for (const [ending, bytes] of Object.entries(content))
    await writeFile(join(directory, name + ending), bytes)
  return directory
}

/**
 * The bytes of every file, by the suffix after the journal's name. The lock file is not part of a
 * journal.
 */
async function filesOf(directory: string): Promise<Record<string, string>> {
  const files: Record<string, string> = {}
  for (const file of (await readdir(directory)).toSorted()) {
    if (file === `${name}.lock`) continue
    files[file.slice(name.length)] = (await readFile(join(directory, file))).toString('latin1')
  }
  return files
}

function latin1(bytes: string | Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}

function sealOf(text: string | Uint8Array): string {
  const bytes = Buffer.from(text)
  const lines = bytes.filter((byte) => byte === 0x0a).length
  const facts = `bytes=${bytes.length} records=${lines - 1} crc32=${hex(bytes)}`
  return `${facts} check=${hex(Buffer.from(facts))}\n`
}

function hex(bytes: string | Uint8Array): string {
  return crc32(Buffer.from(bytes)).toString(16).padStart(8, '0')
}

/** Two sealed segments and an active one, with 2, 2 and 1 records, written by hand. */
function threeSegments(): { '.001': string; '.002': string; '': string } {
  const first = `${header}1\n2\n`
  const second = `// MINISTORE JOURNAL v0.3.0 seq=3 id=5c1e9a70b2f4d833 prev=${hex(first)}\n3\n4\n`
  return { '.001': first, '.002': second, '': `// MINISTORE JOURNAL v0.3.0 seq=5 id=5c1e9a70b2f4d833 prev=${hex(second)}\n5\n` }
}

async function readWithoutOpening(directory: string): Promise<unknown[]> {
  const before = await filesOf(directory)
  const records = await MiniStore.replay(join(directory, name))
  expect(await filesOf(directory), 'a reader changes no byte').toEqual(before)
  return records
}

interface Healed {
  readonly records: readonly unknown[]
  /** The identity, if it is not that of {@link header}. */
  readonly id?: string | undefined
  readonly torn?: Omit<TornTail, 'savedAs'> & { readonly savedAs: string }
  readonly isNew?: boolean
  readonly isActiveRestored?: boolean
  readonly removedFiles?: readonly string[]
  readonly scannedBytes: number
  /** All files afterwards except the seal, which is checked against the active segment. */
  readonly files: Content
}

/**
 * Expects a reader to return the valid prefix, open to heal, report and leave these files, and a
 * second open to change nothing.
 */
async function expectHealed(directory: string, healed: Healed): Promise<void> {
  const {
    records,
    torn,
    isNew = false,
    isActiveRestored = false,
    removedFiles = [],
    scannedBytes,
    files,
  } = healed
  const path = join(directory, name)
  expect(await readWithoutOpening(directory)).toEqual(records)

  const store = await MiniStore.open(path)
  expect(store.recovery).toEqual({
    isNew,
    isActiveRestored,
    torn: torn && { ...torn, savedAs: path + torn.savedAs },
    removedFiles: removedFiles.map((ending) => name + ending),
    scannedBytes,
  })
  expect(await store.replay()).toEqual(records)
  // A new journal gets a new identity. Every other one keeps what its headers say.
  if (isNew) expect(store.id).toMatch(/^[0-9a-f]{16}$/)
  else expect(store.id).toBe(healed.id ?? id)
  const expected = Object.fromEntries(
    Object.entries(files).map(([ending, bytes]) => [ending, latin1(bytes).replace(id, store.id ?? '')]),
  )
  expected['.seal'] = sealOf(Buffer.from(expected[''] ?? '', 'latin1'))
  expect(await filesOf(directory)).toEqual(expected)
  await store.close()
  expect(await filesOf(directory), 'close has nothing to add').toEqual(expected)

  const again = await MiniStore.open(path)
  const nothingDone = { isNew: false, isActiveRestored: false, torn: undefined, removedFiles: [] }
  expect(again.recovery).toEqual({ ...nothingDone, scannedBytes: expected['']?.length })
  expect(await filesOf(directory), 'the second open changes nothing').toEqual(expected)
  expect(await again.append('next')).toBe(store.lastSequence + 1)
  expect(await again.replay()).toEqual([...records, 'next'])
  await again.close()
}

/** Expects open to refuse with `ERR_MINISTORE_CORRUPT` (or another code) and to change no byte. */
async function expectRefused(
  directory: string,
  where: {
    code?: string
    message: RegExp
    segment?: string
    line?: number
    offset?: number
    sequence?: number
  },
): Promise<void> {
  const before = await filesOf(directory)
  const { code = 'ERR_MINISTORE_CORRUPT', message, segment, ...rest } = where
  const path = join(directory, name)
  const context = { path, ...(segment === undefined ? {} : { segment: name + segment }), ...rest }
  for (let times = 0; times < 2; times++) {
    const error: unknown = await MiniStore.open(path).then(
      (store) => store.close(),
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(MiniStoreError)
    expect(error).toMatchObject({ code, ...context })
    expect(String(error)).toMatch(message)
    expect(await filesOf(directory), 'nothing is changed').toEqual(before)
  }
}

/** Expects reading to find the damage, before and after an open that cannot see it, unchanged. */
async function expectFoundByReading(directory: string, message: RegExp): Promise<void> {
  const path = join(directory, name)
  const before = await filesOf(directory)
  const damage = { code: 'ERR_MINISTORE_CORRUPT', message: expect.stringMatching(message) as string }
  await expect(MiniStore.replay(path)).rejects.toMatchObject(damage)
  expect(await filesOf(directory)).toEqual(before)
  const store = await MiniStore.open(path)
  await expect(store.replay()).rejects.toMatchObject(damage)
  await store.close()
  const after = await filesOf(directory)
  delete after['.seal']
  delete before['.seal']
  expect(after, 'the segments are as they were').toEqual(before)
}

describe('no journal', () => {
  test('open creates the directory, its parents and an empty active segment', async () => {
    const directory = join(await temporaryDirectory(), 'a', 'b')
    expect(await MiniStore.replay(join(directory, name))).toEqual([])
    await expect(readdir(directory)).rejects.toThrow('ENOENT')
    const store = await MiniStore.open(join(directory, name))
    expect(store.recovery).toEqual({
      isNew: true,
      isActiveRestored: false,
      torn: undefined,
      removedFiles: [],
      scannedBytes: 0,
    })
    expect([store.firstSequence, store.lastSequence]).toEqual([1, 0])
    const written = header.replace(id, store.id ?? '')
    expect(await filesOf(directory)).toEqual({ '': written, '.seal': sealOf(written) })
    await store.close()
    const expected = { records: [], id: store.id, scannedBytes: header.length, files: { '': header } }
    await expectHealed(directory, expected)
  })

  test('everything that open creates survives a crash right after it, including new parents', async () => {
    const files = new SimulatedFileSystem()
    const path = '/new/parents/journal.jsonl'
    const store = await MiniStore.open(path, { fileSystem: files })
    const [crashed] = [...files.crashStates()]
    const written = header.replace(id, store.id ?? '')
    expect(files.afterCrash({ keep: 'none' }).snapshot().get(path)?.toString()).toBe(written)
    expect(crashed?.snapshot().get(path)?.toString()).toBe(written)
    await store.close()
  })
})

describe('the last line of the active segment is torn', () => {
  const whole = `${header}1\n{"n":2}\n`
  const tornTails: ReadonlyArray<readonly [title: string, tail: string | Uint8Array, reason: string]> = [
    ['no line feed', '{"n":', 'the line has no line feed'],
    ['one byte', '{', 'the line has no line feed'],
    ['no line feed, but it parses: 12 may be a torn 123', '12', 'the line has no line feed'],
    ['no line feed, and half a character', Buffer.from([0x22, 0xe2, 0x82]), 'the line has no line feed'],
    ['NULs and no line feed', '{"n\0\0\0\0"', 'the line has no line feed'],
    ['NULs and a line feed', '\0\0\0\0}\n', 'the line holds a NUL byte'],
    ['one NUL at its end', '{"n":3}\0\n', 'the line holds a NUL byte'],
    ['blank', '\n', 'the line is blank'],
    ['not UTF-8', Buffer.from([0x22, 0xff, 0x22, 0x0a]), 'the line is not UTF-8'],
    ['longer than one read', 'x'.repeat(200_000), 'the line has no line feed'],
    [
      'NULs longer than one read',
      Buffer.concat([Buffer.alloc(150_000), Buffer.from('}\n')]),
      'the line holds a NUL byte',
    ],
  ]
  test.each(tornTails)('%s: it is saved, cut off and reported', async (_, tail, reason) => {
    const active = Buffer.concat([Buffer.from(whole), Buffer.from(tail)])
    const directory = await journalWith({ '': active })
    await expectHealed(directory, {
      records: [1, { n: 2 }],
      torn: {
        sequence: 3,
        offset: whole.length,
        bytes: active.length - whole.length,
        reason,
        savedAs: '.torn-3',
      },
      scannedBytes: active.length,
      files: { '': whole, '.torn-3': tail },
    })
  })

  test('the very first line: no record is left, only the header', async () => {
    await expectHealed(await journalWith({ '': `${header}{"n":` }), {
      records: [],
      torn: {
        sequence: 1,
        offset: header.length,
        bytes: 5,
        reason: 'the line has no line feed',
        savedAs: '.torn-1',
      },
      scannedBytes: header.length + 5,
      files: { '': header, '.torn-1': '{"n":' },
    })
  })

  test('a line after the seal, which stays valid', async () => {
    await expectHealed(await journalWith({ '': `${whole}{`, '.seal': sealOf(whole) }), {
      records: [1, { n: 2 }],
      torn: {
        sequence: 3,
        offset: whole.length,
        bytes: 1,
        reason: 'the line has no line feed',
        savedAs: '.torn-3',
      },
      scannedBytes: whole.length + 1,
      files: { '': whole, '.torn-3': '{' },
    })
  })

  test('after sealed segments: named by its sequence number', async () => {
    const segments = threeSegments()
    const { '': active } = segments
    await expectHealed(await journalWith({ ...segments, '': `${active}[` }), {
      records: [1, 2, 3, 4, 5],
      torn: {
        sequence: 6,
        offset: active.length,
        bytes: 1,
        reason: 'the line has no line feed',
        savedAs: '.torn-6',
      },
      scannedBytes: active.length + 1,
      files: { ...segments, '.torn-6': '[' },
    })
  })

  test('evidence is never overwritten: a number torn again gets a second file, then a third', async () => {
    const directory = await journalWith({ '': header })
    const path = join(directory, name)
    const torn = ['{"first', '{"second', '{"third']
    const names = ['.torn-1', '.torn-1-2', '.torn-1-3']
    for (const [index, tail] of torn.entries()) {
      await writeFile(path, header + tail)
      const store = await MiniStore.open(path)
      expect(store.recovery.torn?.savedAs).toBe(path + String(names[index]))
      await store.close()
    }
    const files = await filesOf(directory)
    expect(names.map((ending) => files[ending])).toEqual(torn)
  })

  test('a recovery interrupted after saving the evidence creates no second copy of it', async () => {
    await expectHealed(await journalWith({ '': `${whole}{"n":`, '.torn-3': '{"n":' }), {
      records: [1, { n: 2 }],
      torn: {
        sequence: 3,
        offset: whole.length,
        bytes: 5,
        reason: 'the line has no line feed',
        savedAs: '.torn-3',
      },
      scannedBytes: whole.length + 5,
      files: { '': whole, '.torn-3': '{"n":' },
    })
  })

  test('evidence of the same length but with other bytes stays, and a second file is created', async () => {
    await expectHealed(await journalWith({ '': `${whole}{"n":`, '.torn-3': '{"m":' }), {
      records: [1, { n: 2 }],
      torn: {
        sequence: 3,
        offset: whole.length,
        bytes: 5,
        reason: 'the line has no line feed',
        savedAs: '.torn-3-2',
      },
      scannedBytes: whole.length + 5,
      files: { '': whole, '.torn-3': '{"m":', '.torn-3-2': '{"n":' },
    })
  })

  test('evidence longer than a copy buffer is complete, recognized, and not confused with another', async () => {
    // All pieces differ.
    const tail = Array.from({ length: 80_000 }, (_, n) => n).join(' ')
    for (const [change, expected] of [
      [undefined, '.torn-3'],
      [(text: string) => text, '.torn-3'],
      [(text: string) => `x${text.slice(1)}`, '.torn-3-2'],
      [(text: string) => `${text.slice(0, -1)}x`, '.torn-3-2'],
      [(text: string) => text.slice(0, -1), '.torn-3-2'],
      [(text: string) => `${text}x`, '.torn-3-2'],
    ] as const) {
      const older = change === undefined ? {} : { '.torn-3': change(tail) }
      await expectHealed(await journalWith({ '': whole + tail, ...older }), {
        records: [1, { n: 2 }],
        torn: {
          sequence: 3,
          offset: whole.length,
          bytes: tail.length,
          reason: 'the line has no line feed',
          savedAs: expected,
        },
        scannedBytes: whole.length + tail.length,
        files: { '': whole, ...older, [expected]: tail },
      })
    }
  })

  test('the evidence is complete and durable before the tail is cut', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/journal.jsonl', `${whole}{"n":`)
    let cuts = 0
    files.onOperation(({ operation, path }) => {
      if (operation !== 'truncate' || path !== '/journal.jsonl') return
      cuts += 1
      expect(files.afterCrash({ keep: 'none' }).readFile('/journal.jsonl.torn-3').toString()).toBe('{"n":')
    })
    const store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    expect(cuts).toBe(1)
    expect(files.afterCrash({ keep: 'none' }).readFile('/journal.jsonl').toString()).toBe(whole)
    await store.close()
  })
})

describe('the active segment holds only a part of a header, or nothing', () => {
  test.each(Array.from({ length: header.length }, (_, length) => length))(
    'its first %i bytes: it is rewritten',
    async (length) => {
      await expectHealed(await journalWith({ '': header.slice(0, length) }), {
        records: [],
        isNew: true,
        scannedBytes: 0,
        files: { '': header },
      })
    },
  )

  test.each([1, 34, 512])('%i NUL bytes: it is rewritten', async (length) => {
    await expectHealed(await journalWith({ '': Buffer.alloc(length) }), {
      records: [],
      isNew: true,
      scannedBytes: 0,
      files: { '': header },
    })
  })

  test('every length of a header after sealed segments: it is rewritten, numbered and chained', async () => {
    const segments = threeSegments()
    const next = segments[''].slice(0, segments[''].indexOf('\n') + 1)
    for (let length = 0; length < next.length; length++) {
      await expectHealed(await journalWith({ ...segments, '': next.slice(0, length) }), {
        records: [1, 2, 3, 4],
        isActiveRestored: true,
        scannedBytes: 0,
        files: { ...segments, '': next },
      })
    }
  })

  test('with a seal that counts no records: it is rewritten', async () => {
    await expectHealed(await journalWith({ '': '', '.seal': sealOf(header) }), {
      records: [],
      isNew: true,
      scannedBytes: 0,
      files: { '': header },
    })
  })
})

describe('leftovers of a crash in a rotation or in another write', () => {
  test('no active segment, sealed ones: the next is created, numbered and chained', async () => {
    const { '.001': first, '.002': second } = threeSegments()
    const active = `// MINISTORE JOURNAL v0.3.0 seq=5 id=5c1e9a70b2f4d833 prev=${hex(second)}\n`
    await expectHealed(await journalWith({ '.001': first, '.002': second }), {
      records: [1, 2, 3, 4],
      isActiveRestored: true,
      scannedBytes: 0,
      files: { '.001': first, '.002': second, '': active },
    })
  })

  test('no active segment, the next one incomplete', async () => {
    const { '.001': first, '.002': second } = threeSegments()
    const active = `// MINISTORE JOURNAL v0.3.0 seq=5 id=5c1e9a70b2f4d833 prev=${hex(second)}\n`
    await expectHealed(await journalWith({ '.001': first, '.002': second, '.next': active.slice(0, 30) }), {
      records: [1, 2, 3, 4],
      isActiveRestored: true,
      removedFiles: ['.next'],
      scannedBytes: 0,
      files: { '.001': first, '.002': second, '': active },
    })
  })

  test.each([['.next'], ['.seal.tmp'], ['.torn-5.tmp'], ['.torn-5-2.tmp'], ['.broken.tmp'], ['.001.broken-2.tmp'], ['.seal.broken.tmp']])(
    '%s left over: it is removed',
    async (ending) => {
      const segments = threeSegments()
      await expectHealed(await journalWith({ ...segments, [ending]: 'half' }), {
        records: [1, 2, 3, 4, 5],
        removedFiles: [ending],
        scannedBytes: segments[''].length,
        files: segments,
      })
    },
  )

  test('foreign files are left unchanged', async () => {
    const segments = threeSegments()
    const others = {
      '.tmp': 'a',
      '.next.bak': 'b',
      '.001.gz': 'c',
      '.torn-x': 'd',
      'x.next': 'e',
      '.broken': 'f',
    }
    await expectHealed(await journalWith({ ...segments, ...others }), {
      records: [1, 2, 3, 4, 5],
      scannedBytes: segments[''].length,
      files: { ...segments, ...others },
    })
  })

  test('a missing or incomplete seal is not an error, and is written again', async () => {
    const segments = threeSegments()
    const seal = sealOf(segments[''])
    for (const broken of [
      '',
      'bytes=',
      seal.slice(0, -1),
      seal.replace('records=1', 'records=2'),
      'x'.repeat(300),
    ]) {
      await expectHealed(await journalWith({ ...segments, '.seal': broken }), {
        records: [1, 2, 3, 4, 5],
        scannedBytes: segments[''].length,
        files: segments,
      })
    }
  })

  test('bytes that a killed writer had not synced are durable when open resolves', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/journal.jsonl', 'create')
    await file.write(Buffer.from(`${header}1\n2\n`), 0)
    const killed = files.afterKill()
    expect(killed.afterCrash({ keep: 'none' }).exists('/journal.jsonl')).toBe(false)
    const store = await MiniStore.open('/journal.jsonl', { fileSystem: killed })
    expect(await store.replay()).toEqual([1, 2])
    const crashed = killed.afterCrash({ keep: 'none' })
    expect(crashed.readFile('/journal.jsonl').toString()).toBe(`${header}1\n2\n`)
    await store.close()
  })
})

describe('recovery of recovery', () => {
  test('a process that stops at any operation leaves files that the next recovery heals', async () => {
    const damaged = new SimulatedFileSystem()
    damaged.writeFile('/journal.jsonl', `${header}1\n2\n{"n":`)
    damaged.writeFile('/journal.jsonl.torn-3', 'older')
    damaged.writeFile('/journal.jsonl.next', 'half')
    let stops = 0
    for (let index = 0; ; index++) {
      const files = damaged.afterKill()
      files.stopAt(index)
      try {
        const store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
        await store.close()
      } catch (error) {
        expect(String(error)).toContain('has stopped')
      }
      if (!files.isStopped) break
      stops += 1
      for (const state of [files.afterKill(), ...files.crashStates({ seed: index, limit: 20 })]) {
        const store = await MiniStore.open('/journal.jsonl', { fileSystem: state })
        expect(await store.replay()).toEqual([1, 2])
        await store.close()
        expect(state.readFile('/journal.jsonl').toString()).toBe(`${header}1\n2\n`)
        expect(state.readFile('/journal.jsonl.torn-3').toString()).toBe('older')
        expect(state.readFile('/journal.jsonl.torn-3-2').toString()).toBe('{"n":')
        expect(state.names('/').filter((file) => /torn|next|tmp/.test(file))).toHaveLength(2)
      }
    }
    expect(stops).toBeGreaterThan(30)
  })
})

describe('corruption is refused, and nothing is changed', () => {
  const lines = `${header}1\n2\n`
  const bad: ReadonlyArray<readonly [string, string | Uint8Array, RegExp]> = [
    ['a NUL', '\0{}\n', /NUL/],
    ['a blank line', '\n', /blank/],
    ['a byte that is not UTF-8', Buffer.from([0x22, 0xff, 0x22, 0x0a]), /UTF-8/],
  ]
  test.each(bad)('%s before the last line of the active segment', async (_, line, message) => {
    const active = Buffer.concat([Buffer.from(lines), Buffer.from(line), Buffer.from('4\n')])
    const directory = await journalWith({ '': active })
    await expectRefused(directory, { message, segment: '', line: 4, offset: lines.length, sequence: 3 })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
      segment: name,
      line: 4,
      offset: lines.length,
      sequence: 3,
    })
  })

  test.each(bad)('%s before a torn tail', async (_, line, message) => {
    const active = Buffer.concat([Buffer.from(lines), Buffer.from(line), Buffer.from('{"torn')])
    await expectRefused(await journalWith({ '': active }), {
      message,
      segment: '',
      line: 4,
      offset: lines.length,
      sequence: 3,
    })
  })

  test('a bad line far before the end, with more than one read after it', async () => {
    const active = Buffer.concat([Buffer.from(`${lines}\0\n`), Buffer.from('4\n'.repeat(100_000))])
    await expectRefused(await journalWith({ '': active }), {
      message: /NUL/,
      segment: '',
      line: 4,
      offset: lines.length,
    })
  })

  test('a line that is not JSON: found when it is read, with its position', async () => {
    const directory = await journalWith({ '': `${lines}{oops\n4\n` })
    await expectFoundByReading(directory, /not JSON/)
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      segment: name,
      line: 4,
      offset: lines.length,
      sequence: 3,
    })
  })

  test('a gap in the numbers of segments', async () => {
    const { '.001': first, '.002': second, '': active } = threeSegments()
    const directory = await journalWith({ '.001': first, '.003': second, '': active })
    await expectRefused(directory, { message: /missing/, segment: '.003' })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
    })
  })

  test('one number twice', async () => {
    const { '.001': first, '.002': second, '': active } = threeSegments()
    const directory = await journalWith({ '.001': first, '.000001': first, '.002': second, '': active })
    await expectRefused(directory, { message: /two segments have number 1/ })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
    })
  })

  test('swapped segments: the sequence goes backwards', async () => {
    const segments = threeSegments()
    const directory = await journalWith(segments)
    await rename(join(directory, `${name}.001`), join(directory, `${name}.x`))
    await rename(join(directory, `${name}.002`), join(directory, `${name}.001`))
    await rename(join(directory, `${name}.x`), join(directory, `${name}.002`))
    await expectRefused(directory, { message: /begins with sequence 1/, segment: '.002', sequence: 1 })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
    })
  })

  test('a sequence that skips numbers between two segments: found when it is read', async () => {
    const { '.001': first } = threeSegments()
    const active = `// MINISTORE JOURNAL v0.3.0 seq=4 id=5c1e9a70b2f4d833 prev=${hex(first)}\n4\n`
    await expectFoundByReading(
      await journalWith({ '.001': first, '': active }),
      /begins with sequence 4, expected 3/,
    )
  })

  test('a sequence that says that a sealed segment with records is empty', async () => {
    const { '.001': first } = threeSegments()
    const active = `// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833 prev=${hex(first)}\n3\n`
    const directory = await journalWith({ '.001': first, '': active })
    // Either open or the first reader must report it: records 1 and 2 must not vanish silently.
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
    })
  })

  test('a sealed segment changed to other valid lines: found when it is read', async () => {
    const segments = threeSegments()
    await expectFoundByReading(
      await journalWith({ ...segments, '.001': segments['.001'].replace('\n2', '\n7') }),
      /wrong checksum/,
    )
  })

  test('a wrong prev: found when it is read', async () => {
    const segments = threeSegments()
    const active = segments[''].replace(/prev=\w+/, 'prev=00000000')
    await expectFoundByReading(await journalWith({ ...segments, '': active }), /wrong checksum/)
  })

  test('a sealed segment cut short, in a line or between lines: found when it is read', async () => {
    const segments = threeSegments()
    for (const cut of [1, 2]) {
      const directory = await journalWith({ ...segments, '.001': segments['.001'].slice(0, -cut) })
      await expectFoundByReading(directory, cut === 1 ? /no line feed/ : /wrong checksum/)
    }
  })

  test.each(['.001', '.002', ''] as const)('another identity in %j: two ids are not one journal', async (ending) => {
    const segments = threeSegments()
    segments[ending] = segments[ending].replace(id, 'ffffffffffffffff')
    const directory = await journalWith(segments)
    const found = ending === '.001' ? '.002' : ending
    await expectRefused(directory, { message: /its header has the id \w{16}, but that of journal\.jsonl\.00\d has \w{16}/, segment: found })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: name + found })
  })

  test('another identity than before in the only header: found by the seal', async () => {
    const text = `${header}1\n`
    const directory = await journalWith({ '': text.replace('5c1e', '5c1f'), '.seal': sealOf(text) })
    await expectRefused(directory, { message: /a byte among the first \d+ has changed/, segment: '' })
  })

  test('a header without prev after another segment, in a sealed segment and in the active one', async () => {
    for (const ending of ['.002', ''] as const) {
      const segments = threeSegments()
      segments[ending] = segments[ending].replace(/ prev=\w+/, '')
      const directory = await journalWith(segments)
      await expectRefused(directory, { message: /its header has no prev, although journal\.jsonl\.00\d comes before it/, segment: ending })
      await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: name + ending })
    }
  })

  test('a missing active segment of an emptied journal: its seal shows that the sequence continues', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, name)
    const store = await MiniStore.open(path)
    await store.appendAll([1, 2, 3, 4])
    await store.rotate()
    await store.truncateBefore(5)
    await store.close()
    const active = await readFile(path)
    await rm(path)
    await expectRefused(directory, { message: /the active segment is gone, and its seal .* says that it held 0 record/, segment: '' })
    await expect(MiniStore.replay(path)).rejects.toThrow(/the active segment is gone/)
    await writeFile(path, active)
    const again = await MiniStore.open(path)
    expect(await again.append(5)).toBe(5)
    await again.close()
  })

  test('a sealed segment without a complete header', async () => {
    const segments = threeSegments()
    for (const rest of ['', header.slice(0, 10)]) {
      await expectRefused(await journalWith({ ...segments, '.001': rest }), {
        message: /no complete header/,
        segment: '.001',
      })
    }
  })

  test('a wrong seal: a byte of the active segment has changed since', async () => {
    const directory = await journalWith({ '': lines.replace('2', '3'), '.seal': sealOf(lines) })
    await expectRefused(directory, { message: /a byte among the first \d+ has changed/, segment: '' })
    await expect(MiniStore.replay(join(directory, name))).rejects.toThrow(/wrong checksum/)
  })

  test('an active segment shorter than its seal, at a line or in one', async () => {
    for (const cut of [2, 1]) {
      const directory = await journalWith({ '': lines.slice(0, -cut), '.seal': sealOf(lines) })
      await expectRefused(directory, { message: /the seal covers 58 bytes/, segment: '' })
      await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
        code: 'ERR_MINISTORE_CORRUPT',
      })
    }
  })

  test.each([
    ['gone', undefined],
    ['empty', ''],
    ['half a header', header.slice(0, 9)],
    ['NULs', '\0'.repeat(38)],
  ])('an active segment that is %s, though its seal counts records', async (_, rest) => {
    const { '.001': first, '.002': second, '': active } = threeSegments()
    const sealed = { '.001': first, '.002': second, '.seal': sealOf(active) }
    for (const before of [sealed, { '.seal': sealOf(lines) }]) {
      const directory = await journalWith(rest === undefined ? before : { ...before, '': rest })
      await expectRefused(directory, { message: /the active segment is gone/, segment: '' })
      await expect(MiniStore.replay(join(directory, name))).rejects.toThrow(/the active segment is gone/)
    }
  })

  test.each([
    ['another text', 'hello, this is not a journal\n1\n'],
    ['another text without an end', 'hello'],
    ['a record in its place', '{"n":1}\n'],
    ['a byte order mark', `\uFEFF${header}1\n`],
    ['no version', '// MINISTORE JOURNAL v\n1\n'],
    ['no sequence', '// MINISTORE JOURNAL v0.2.0\n1\n'],
    ['a sequence of 0', '// MINISTORE JOURNAL v0.3.0 seq=0 id=5c1e9a70b2f4d833\n1\n'],
    ['a sequence that is no number', '// MINISTORE JOURNAL v0.2.0 seq=1x\n1\n'],
    ['a damaged prev', '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833 prev=123\n1\n'],
    ['no identity', '// MINISTORE JOURNAL v0.3.0 seq=1\n1\n'],
    ['a damaged identity', `${header.trimEnd()}3\n1\n`],
    ['another case', `${header.toLowerCase()}1\n`],
    ['too many NULs', '\0'.repeat(513)],
    ['no end', header.trimEnd().padEnd(600, 'x')],
    ['one byte too long', `${header.trimEnd()} x=`.padEnd(513, 'x') + '\n1\n'],
    ['far too long', `${header.trimEnd()} x=`.padEnd(100_000, 'x') + '\n1\n'],
    ['too long, without an end', `${header.trimEnd()} x=`.padEnd(513, 'x')],
    ['a sequence beyond the last there can be', '// MINISTORE JOURNAL v0.3.0 seq=9007199254740992 id=5c1e9a70b2f4d833\n1\n'],
    ['a sequence of 17 digits', '// MINISTORE JOURNAL v0.3.0 seq=10000000000000000 id=5c1e9a70b2f4d833\n1\n'],
  ])('a foreign or damaged header: %s', async (_, active) => {
    const directory = await journalWith({ '': active })
    await expectRefused(directory, {
      message: /not a journal or its header is damaged/,
      segment: '',
      line: 1,
      offset: 0,
    })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
    })
  })

  test.each(['', '.001'])('a header of 513 bytes, in %s: open refuses it, verify reports it, repair fixes it', async (ending) => {
    const files = new SimulatedFileSystem()
    const segments = threeSegments()
    for (const [at, text] of Object.entries(segments)) {
      const [line = ''] = text.split('\n')
      files.writeFile(`/${name}${at}`, at === ending ? text.replace(line, `${line} x=`.padEnd(513, 'x')) : text)
    }
    await expect(MiniStore.open(`/${name}`, { fileSystem: files })).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: name + ending })
    const damages: MiniStoreError[] = []
    await verifyJournal(files, `/${name}`, { onDamage: (damage) => damages.push(damage) })
    expect(damages[0]?.message).toMatch(/header is damaged.*and more than 512 bytes/)
    const repaired = await repairJournal(files, `/${name}`)
    expect(repaired?.plan.findings).toMatchObject([{ segment: name + ending, line: 1 }])
    const store = await MiniStore.open<number>(`/${name}`, { fileSystem: files })
    expect(await store.append(6)).toBe(6)
    expect(await store.replay()).toEqual([1, 2, 3, 4, 5, 6])
    await store.close()
  })

  test('a header of 512 bytes is not corruption', async () => {
    const active = `${header.trimEnd()} x=`.padEnd(512, 'x') + '\n1\n'
    await expectHealed(await journalWith({ '': active }), { records: [1], scannedBytes: active.length, files: { '': active } })
  })

  test.each(['', '.001'])('a newer major version, in %s', async (ending) => {
    const newer = '// MINISTORE JOURNAL v1.0.0 seq=1\n1\n'
    const directory = await journalWith({ ...threeSegments(), [ending]: newer })
    const code = 'ERR_MINISTORE_UNSUPPORTED_VERSION'
    await expectRefused(directory, { code, message: /version 1\.0\.0/, segment: ending, line: 1, offset: 0 })
    await expect(MiniStore.replay(join(directory, name))).rejects.toMatchObject({ code })
  })

  test('the journal opens again once the damage is fixed', async () => {
    const segments = threeSegments()
    const directory = await journalWith({ ...segments, '.004': 'x' })
    await expectRefused(directory, { message: /missing|not a journal/ })
    await rm(join(directory, `${name}.004`))
    await expectHealed(directory, {
      records: [1, 2, 3, 4, 5],
      scannedBytes: segments[''].length,
      files: segments,
    })
  })
})

describe('an I/O error while reading', () => {
  test('is that error at every read of open, never the end of the file; nothing is changed', async () => {
    const damaged = new SimulatedFileSystem()
    for (const [ending, text] of Object.entries(threeSegments())) damaged.writeFile(`/${name}${ending}`, text)
    damaged.writeFile(`/${name}.lock`, '')
    let failures = 0
    for (let nth = 1; ; nth++) {
      const files = damaged.afterKill()
      const fault = files.failOn({ operation: 'read', nth }, 'EIO')
      const before = files.snapshot()
      const opened: unknown = await MiniStore.open(`/${name}`, { fileSystem: files }).catch(
        (error: unknown) => error,
      )
      if (fault.hits === 0) {
        await (opened as MiniStore).close()
        break
      }
      failures += 1
      expect(opened).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'EIO', syscall: 'read' } })
      expect(files.snapshot()).toEqual(before)
    }
    // At least the headers of three segments and the active segment.
    expect(failures).toBeGreaterThanOrEqual(4)
  })

  test('is that error at every read of a reader', async () => {
    const damaged = new SimulatedFileSystem()
    for (const [ending, text] of Object.entries(threeSegments())) damaged.writeFile(`/${name}${ending}`, text)
    let failures = 0
    for (let nth = 1; ; nth++) {
      const files = damaged.afterKill()
      const fault = files.failOn({ operation: 'read', nth }, 'EIO')
      const read: unknown = await MiniStore.replay(`/${name}`, { fileSystem: files }).catch(
        (error: unknown) => error,
      )
      if (fault.hits === 0) {
        expect(read).toEqual([1, 2, 3, 4, 5])
        break
      }
      failures += 1
      expect(read).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'EIO', syscall: 'read' } })
    }
    expect(failures).toBeGreaterThanOrEqual(6)
  })
})

/** The real file system, with a count of the bytes read from each file, by its suffix. */
function counting(): { readonly fileSystem: FileSystem; readonly read: Map<string, number> } {
  const read = new Map<string, number>()
  const fileSystem: FileSystem = {
    ...nodeFileSystem,
    lock: async () => true,
    open: async (path, mode) => {
      const file = await nodeFileSystem.open(path, mode)
      const counted: File = {
        read: async (buffer, position) => {
          const bytes = await file.read(buffer, position)
          read.set(path, (read.get(path) ?? 0) + bytes)
          return bytes
        },
        write: (bytes, position) => file.write(bytes, position),
        truncate: (length) => file.truncate(length),
        sync: () => file.sync(),
        dataSync: () => file.dataSync(),
        stat: () => file.stat(),
        close: () => file.close(),
      }
      return counted
    },
  }
  return { fileSystem, read }
}

describe('the cost of open', () => {
  test('is a read of the active segment and of the headers of the sealed ones, however long they are', async () => {
    const path = join(await temporaryDirectory(), name)
    const writer = await MiniStore.open(path)
    const record = 'x'.repeat(5000)
    for (let segment = 0; segment < 50; segment++) {
      await writer.appendAll([record, record])
      await writer.rotate()
    }
    await writer.append(record)
    await writer.close()

    const { fileSystem, read } = counting()
    const store = await MiniStore.open(path, { fileSystem })
    expect(store.segments).toHaveLength(51)
    expect(store.lastSequence).toBe(101)
    const sealed = [...read].filter(([file]) => /\.\d+$/.test(file))
    expect(sealed).toHaveLength(50)
    // 513 bytes: the maximum length of a header plus one.
    for (const [file, bytes] of sealed) expect(bytes, file).toBeLessThanOrEqual(513)
    const active = store.segments.at(-1)?.bytes ?? 0
    // The last byte is read to see whether it is padding.
    expect(read.get(path)).toBeGreaterThanOrEqual(active)
    expect(read.get(path)).toBeLessThanOrEqual(active + 513 + 1)
    await store.close()
  })
})

describe('a recovery with refused calls or leftover files', () => {
  const path = `/${name}`
  const rust = '// MINISTORE JOURNAL v0.1.4\n'

  function diskWith(content: Content): SimulatedFileSystem {
    const files = new SimulatedFileSystem()
    for (const [ending, bytes] of Object.entries(content)) files.writeFile(path + ending, bytes)
    return files
  }

  test('of no active segment also removes incomplete files, and names them', async () => {
    const { '.001': first } = threeSegments()
    const files = diskWith({ '.001': first, '.next': 'x', '.torn-5.tmp': 'x', '.repair.tmp': 'x' })
    const store = await MiniStore.open(path, { fileSystem: files })
    expect(store.recovery.removedFiles.toSorted()).toEqual([`${name}.next`, `${name}.repair.tmp`, `${name}.torn-5.tmp`])
    expect(files.names('/')).toEqual([name, `${name}.001`, `${name}.lock`, `${name}.seal`])
    await store.close()
  })

  test.each([
    ['an end without a line feed', '3'],
    ['a NUL in its last line', '\0\n'],
    ['a blank last line', '\n'],
  ])('of no active segment finds that the sealed one is damaged: %s', async (_, end) => {
    const { '.001': first } = threeSegments()
    const directory = await journalWith({ '.001': first + end })
    await expectRefused(directory, { message: /damaged/, segment: '.001', line: 4, sequence: 3 })
  })

  test('leaves no seal of another segment, even without room for a new one', async () => {
    const { '.001': first } = threeSegments()
    for (const content of [
      // Another program rotated: the seal belongs to the segment that is now sealed.
      { '.001': first, '.seal': sealOf(first) },
      { '.001': first, '': `${rust}3\n`, '.seal': sealOf(first) },
      { '.001': first, '': `${rust}${'3\n'.repeat(20)}`, '.seal': sealOf(first) },
    ]) {
      const files = diskWith(content)
      files.failOn({ operation: 'open', path: `${path}.seal.tmp`, times: 'always' }, 'ENOSPC')
      const store = await MiniStore.open<number>(path, { fileSystem: files })
      expect(files.exists(`${path}.seal`)).toBe(false)
      await store.append(4)
      expect((await store.replay()).slice(0, 2)).toEqual([1, 2])
      await store.close()
      expect((await MiniStore.replay(path, { fileSystem: files })).at(-1)).toBe(4)
    }
  })

  test('accepts a seal of an earlier segment only if the later headers have no number', async () => {
    const { '.001': first, '.002': second, '': active } = threeSegments()
    const wrong = { message: /the seal/, segment: '' }
    await expectRefused(await journalWith({ '.001': first, '.002': second, '': active, '.seal': sealOf(second) }), wrong)
    await expectRefused(await journalWith({ '.001': first, '.002': second, '': `${rust}5\n`, '.seal': sealOf(first) }), {
      message: /damaged/,
      segment: '',
    })
    const files = diskWith({ '.001': first, '.002': `${rust}3\n4\n`, '': `${rust}5\n`, '.seal': sealOf(first) })
    const store = await MiniStore.open(path, { fileSystem: files })
    expect(await store.replay()).toEqual([1, 2, 3, 4, 5])
    await store.close()
  })

  test('makes the name of a segment durable before another file takes the active name', async () => {
    const files = new SimulatedFileSystem()
    // Not in the root directory, whose names are synced whenever a path is.
    const deep = `/data/${name}`
    const store = await MiniStore.open(deep, { fileSystem: files })
    await store.append('a')
    await store.close()
    const again = await MiniStore.open(deep, { fileSystem: files })
    // The rename of the full segment is visible, but its sync fails: the store is poisoned and its
    // process ends.
    let isRenamed = false
    files.failOn(({ operation }) => {
      isRenamed ||= operation === 'rename'
      return operation === 'syncDirectory' && isRenamed
    }, 'EIO')
    await expect(again.rotate()).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await again.close()
    files.clearFaults()
    const states: Array<Iterable<SimulatedFileSystem>> = []
    files.onOperation(() => states.push(files.crashStates({ seed: 1, limit: 50 })))
    const third = await MiniStore.open(deep, { fileSystem: files })
    expect(third.recovery.isActiveRestored).toBe(true)
    for (const state of states.flatMap((some) => [...some])) expect(await MiniStore.replay(deep, { fileSystem: state })).toEqual(['a'])
    await third.close()
  })

  test('makes the name of existing evidence durable before it cuts the tail', async () => {
    const deep = `/data/${name}`
    const files = new SimulatedFileSystem()
    files.writeFile(deep, `${header}1\n2\n"torn`)
    let isRenamed = false
    files.failOn(({ operation }) => {
      isRenamed ||= operation === 'rename'
      return operation === 'syncDirectory' && isRenamed
    }, 'EIO')
    await expect(MiniStore.open(deep, { fileSystem: files })).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    files.clearFaults()
    const states: Array<Iterable<SimulatedFileSystem>> = []
    files.onOperation(() => states.push(files.crashStates({ seed: 1, limit: 50, tornVariants: [] })))
    const store = await MiniStore.open(deep, { fileSystem: files })
    expect(store.recovery.torn?.savedAs).toBe(`${deep}.torn-3`)
    await store.close()
    for (const state of states.flatMap((some) => [...some])) {
      const isThere = state.readFile(deep).toString().endsWith('"torn') || state.exists(`${deep}.torn-3`)
      expect(isThere, 'the tail, in the journal or as evidence').toBe(true)
    }
  })

  test('that is refused does not remove incomplete files', async () => {
    for (const content of [
      { '': `${header}1\n\0\n3\n`, '.torn-3.tmp': 'x', '.next': 'x' },
      { '': `${header}1\n2\n`, '.seal': sealOf(`${header}1\n3\n`), '.torn-3.tmp': 'x', '.next': 'x' },
      { '.001': `${header}1\n2`, '.torn-3.tmp': 'x', '.next': 'x' },
    ]) {
      await expectRefused(await journalWith(content), { message: /damaged/ })
    }
  })

  test.each(['truncate', 'write'] as const)('without a torn tail needs no room: %s', async (operation) => {
    const files = diskWith({ '': `${header}1\n2\n` })
    const fault = files.failOn({ operation, path }, 'ENOSPC')
    const store = await MiniStore.open(path, { fileSystem: files })
    expect(fault.hits).toBe(1)
    expect(await store.append(3)).toBe(3)
    expect(await store.replay()).toEqual([1, 2, 3])
    await store.close()
  })

  test('of a torn tail fails when the tail cannot be cut, even for lack of room', async () => {
    for (const code of ['ENOSPC', 'EIO'] as const) {
      const files = diskWith({ '': `${header}1\n2\n"torn` })
      files.failOn({ operation: 'truncate', path }, code)
      await expect(MiniStore.open(path, { fileSystem: files })).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code } })
      const store = await MiniStore.open(path, { fileSystem: files })
      expect(store.recovery.torn).toMatchObject({ bytes: 5, savedAs: `${path}.torn-3` })
      expect(await store.append(3)).toBe(3)
      await store.close()
      expect(files.readFile(path).toString()).toBe(`${header}1\n2\n3\n`)
    }
  })
})

describe('a torn end longer than the maximum string or buffer', () => {
  const megabyte = 1024 * 1024
  const lines = `${header}1\n2\n`

  /** A journal with this text after its records, padded with a hole of NULs that takes no room. */
  async function sparseJournal(bytes: number, beginning = '', end = ''): Promise<{ directory: string; path: string }> {
    const directory = await journalWith({ '': lines + beginning })
    const path = join(directory, name)
    await truncate(path, lines.length + bytes - end.length)
    await appendFile(path, end)
    return { directory, path }
  }

  /** Memory in use by buffers, which are outside the heap. */
  const bufferBytes = (): number => process.memoryUsage().arrayBuffers

  test.each([
    ['of NULs and one byte', 600, '', '"', /no line feed/],
    ['of half a record, NULs and one byte', 100, '{"half', '"', /no line feed/],
    ['of NULs that end in a line feed', 100, '', '\n', /NUL/],
  ])('%s, %i MiB: it is healed in little memory, and its evidence takes no disk space', async (_, megabytes, beginning, end, reason) => {
    const bytes = megabytes * megabyte
    const { directory, path } = await sparseJournal(bytes, beginning, end)
    let most = 0
    const files = new ObservedFileSystem(() => {
      most = Math.max(most, bufferBytes())
    })
    const before = bufferBytes()
    const store = await MiniStore.open<number>(path, { fileSystem: files })
    expect(store.recovery.torn).toEqual({ sequence: 3, offset: lines.length, bytes, reason: expect.stringMatching(reason) as string, savedAs: `${path}.torn-3` })
    expect(most - before).toBeLessThan(32 * megabyte)
    expect((await stat(path)).size).toBe(lines.length)
    const evidence = await stat(`${path}.torn-3`)
    expect(evidence.size).toBe(bytes)
    if (process.platform === 'linux') expect(evidence.blocks * 512).toBeLessThan(2 * megabyte)
    expect(await readAt(`${path}.torn-3`, 0, beginning.length)).toBe(beginning)
    expect(await readAt(`${path}.torn-3`, bytes - end.length, end.length)).toBe(end)
    expect(await store.append(3)).toBe(3)
    expect(await store.replay()).toEqual([1, 2, 3])
    await store.close()
    expect(await readdir(directory)).toHaveLength(4)
  })

  test('of NULs alone is padding, 600 MiB: it is cut off in little memory, without evidence', async () => {
    const { directory, path } = await sparseJournal(600 * megabyte)
    let most = 0
    const files = new ObservedFileSystem(() => {
      most = Math.max(most, bufferBytes())
    })
    const before = bufferBytes()
    const store = await MiniStore.open<number>(path, { fileSystem: files })
    expect(store.recovery.torn).toBeUndefined()
    expect(most - before).toBeLessThan(32 * megabyte)
    expect((await stat(path)).size).toBe(lines.length)
    expect(await store.append(3)).toBe(3)
    expect(await store.replay()).toEqual([1, 2, 3])
    await store.close()
    expect(await readdir(directory)).toHaveLength(3)
  })

  test('is skipped by readers, shown by inspect and verify, and not damage for repair, in little memory', async () => {
    const bytes = 100 * megabyte
    const { path } = await sparseJournal(bytes, '', '"')
    let most = 0
    const files = new ObservedFileSystem(() => {
      most = Math.max(most, bufferBytes())
    })
    const before = bufferBytes()
    expect(await MiniStore.replay(path, { fileSystem: files })).toEqual([1, 2])
    const damages: MiniStoreError[] = []
    const verified = await verifyJournal(files, path, { onDamage: (damage) => damages.push(damage) })
    expect(verified).toMatchObject({ records: 2, lastSequence: 2, torn: { offset: lines.length, bytes, isEnded: false } })
    expect(damages).toEqual([])
    const inspected = await inspectJournal(files, path, { isQuick: true })
    expect(inspected).toMatchObject({ lastSequence: 2, torn: { offset: lines.length, bytes } })
    const repaired = await repairJournal(files, path)
    expect(repaired?.plan).toMatchObject({ findings: [], records: 2, cut: undefined })
    const followed: number[] = []
    for await (const record of MiniStore.stream<number>(path, { fileSystem: files, follow: true })) {
      if (followed.push(record) === 2) break
    }
    expect(followed).toEqual([1, 2])
    expect(most - before).toBeLessThan(32 * megabyte)
  })

  test('does not hide an unclean line before it', async () => {
    const bytes = 2 * megabyte
    const { directory, path } = await sparseJournal(bytes, '\n', '"')
    await expect(MiniStore.open(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', line: 4, sequence: 3 })
    expect((await stat(path)).size).toBe(lines.length + bytes)
    expect(await readdir(directory)).toHaveLength(2)
  })

  async function readAt(path: string, position: number, length: number): Promise<string> {
    const file = await nodeFileSystem.open(path, 'read')
    const buffer = Buffer.alloc(length)
    if (length > 0) await file.read(buffer, position)
    await file.close()
    return buffer.toString()
  }
})

describe('the highest possible sequence number', () => {
  const last = Number.MAX_SAFE_INTEGER
  const path = `/${name}`

  /** A journal whose next record gets this number. */
  function journalAt(sequence: number, lines = ''): SimulatedFileSystem {
    const files = new SimulatedFileSystem()
    files.writeFile(path, `// MINISTORE JOURNAL v0.3.0 seq=${sequence} id=5c1e9a70b2f4d833\n${lines}`)
    return files
  }

  test('is assigned, and nothing is written or rotated beyond it', async () => {
    const files = journalAt(last - 2)
    const store = await MiniStore.open<string>(path, { fileSystem: files, maxBytesPerSegment: 80 })
    expect(await store.append('a')).toBe(last - 2)
    await expect(store.appendAll(['b', 'c', 'd'])).rejects.toThrow(
      new RangeError(`Expected at most 2 more records, got 3: sequence numbers end at ${last}`),
    )
    expect(await store.appendAll(['b', 'c'])).toEqual({ first: last - 1, last })
    const before = files.snapshot()
    await expect(store.append('e')).rejects.toThrow(RangeError)
    await expect(store.append('long'.repeat(30)), 'which would have to rotate').rejects.toThrow(RangeError)
    await expect(store.rotate()).rejects.toThrow(RangeError)
    expect(files.snapshot()).toEqual(before)
    expect(await store.replay()).toEqual(['a', 'b', 'c'])
    await store.close()
    const again = await MiniStore.open(path, { fileSystem: files })
    expect([again.firstSequence, again.lastSequence]).toEqual([last - 2, last])
    await again.close()
  })

  test('is that of the record at which a journal may still be rotated', async () => {
    const store = await MiniStore.open<string>(path, { fileSystem: journalAt(last - 1) })
    await store.append('a')
    await store.rotate()
    expect(await store.append('b')).toBe(last)
    await store.truncateBefore(last)
    expect(await store.replay()).toEqual(['b'])
    await store.close()
  })

  test('is passed by a journal with more records than that: corrupt on open, when read and verified; repair cuts them off', async () => {
    const files = journalAt(last - 1, '"a"\n"b"\n"c"\n"d"\n')
    const before = files.snapshot()
    const damage = { code: 'ERR_MINISTORE_CORRUPT', message: expect.stringMatching(`beyond ${last}`) as string }
    await expect(MiniStore.open(path, { fileSystem: files })).rejects.toMatchObject(damage)
    await expect(MiniStore.replay(path, { fileSystem: files })).rejects.toMatchObject(damage)
    const damages: MiniStoreError[] = []
    await verifyJournal(files, path, { onDamage: (found) => damages.push(found) })
    expect(damages).toMatchObject([damage])
    files.unlink(`${path}.lock`).catch(() => {})
    expect([...files.snapshot()].filter(([file]) => !file.endsWith('.lock'))).toEqual([...before])
    await expect(repairJournal(files, path)).rejects.toMatchObject(damage)
    const repaired = await repairJournal(files, path, { truncateAt: last + 1 })
    expect(repaired?.plan).toMatchObject({ cut: { first: last + 1 }, records: 2 })
    expect(await MiniStore.replay(path, { fileSystem: files })).toEqual(['a', 'b'])
  })

  test('is not exceeded by counting when headers have no number', async () => {
    const sealed = `// MINISTORE JOURNAL v0.3.0 seq=${last - 1} id=5c1e9a70b2f4d833\n"a"\n"b"\n"c"\n`
    const files = journalAt(1)
    files.writeFile(`${path}.001`, sealed)
    files.writeFile(path, '// MINISTORE JOURNAL v0.1.0\n"d"\n')
    const damage = { code: 'ERR_MINISTORE_CORRUPT', message: expect.stringMatching(`beyond ${last}`) as string }
    await expect(MiniStore.open(path, { fileSystem: files })).rejects.toMatchObject(damage)
    await files.unlink(path)
    await expect(MiniStore.open(path, { fileSystem: files })).rejects.toMatchObject(damage)
  })

  test('a sealed segment that ends with it leaves no number for the next: no active segment is created', async () => {
    const files = journalAt(1)
    await files.unlink(path)
    files.writeFile(`${path}.001`, `// MINISTORE JOURNAL v0.3.0 seq=${last} id=5c1e9a70b2f4d833\n"a"\n`)
    const opening = MiniStore.open(path, { fileSystem: files })
    await expect(opening).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: `${name}.001` })
    await expect(opening).rejects.toThrow(`beyond ${last}`)
    expect(files.names('/').filter((file) => !file.endsWith('.lock'))).toEqual([`${name}.001`])
  })

  test('a segment number has 15 digits: with the highest one, rotation is refused and nothing is changed', async () => {
    const { '.001': first } = threeSegments()
    const files = new SimulatedFileSystem()
    files.writeFile(`${path}.999999999999999`, first)
    files.writeFile(path, `// MINISTORE JOURNAL v0.3.0 seq=3 id=5c1e9a70b2f4d833 prev=${hex(first)}\n3\n`)
    const store = await MiniStore.open<number>(path, { fileSystem: files })
    const before = files.snapshot()
    await expect(store.rotate()).rejects.toThrow(/Expected a segment number of at most 999999999999999/)
    expect(files.snapshot()).toEqual(before)
    expect(await store.append(4)).toBe(4)
    expect(await store.replay()).toEqual([1, 2, 3, 4])
    await store.close()
  })

  test('a seal with a count beyond the safe integers is invalid', () => {
    const facts = 'bytes=9007199254740993 records=1 crc32=00000000'
    expect(parseSeal(`${facts} check=${hex(facts)}\n`)).toBeUndefined()
    const most = 'bytes=9007199254740991 records=1 crc32=00000000'
    expect(parseSeal(`${most} check=${hex(most)}\n`)).toMatchObject({ bytes: last })
  })
})
