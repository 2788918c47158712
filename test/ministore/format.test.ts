import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { nodeFileSystem } from '../../src/fs/node.ts'
import { MiniStore } from '../../src/index.ts'
import { verifyJournal } from '../../src/maintenance/verify.ts'
import {
  extendCheckpoint, formatHeader, formatSeal, formatVersion, headerCheckpoint, isPartialHeader, JournalFiles, parseHeader,
  parseSeal, readSeal, isSameCheckpoint,
} from '../../src/ministore/format.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const where = { path: '/j', segment: 'j' }
const id = '5c1e9a70b2f4d833'

describe('the header', () => {
  test('states version, sequence, identity and checksum, and can be read back', () => {
    const line = formatHeader({ sequence: 1001, id, previousCrc32: 0x9f3c21aa })
    expect(line).toBe('// MINISTORE JOURNAL v0.3.0 seq=1001 id=5c1e9a70b2f4d833 prev=9f3c21aa\n')
    expect(parseHeader(line.trimEnd(), where)).toMatchObject({
      version: formatVersion, sequence: 1001, id, previousCrc32: 0x9f3c21aa, bytes: line.length,
    })
  })

  test('below version 0.3 may lack the identity, which is read where it is there', () => {
    expect(parseHeader('// MINISTORE JOURNAL v0.2.0 seq=1', where).id).toBeUndefined()
    expect(parseHeader(`// MINISTORE JOURNAL v0.2.9 seq=1 id=${id}`, where).id).toBe(id)
  })

  test.each([
    '// MINISTORE JOURNAL v0.3.0 seq=1', '// MINISTORE JOURNAL v0.4.0 seq=1', '// MINISTORE JOURNAL v0.3.0 seq=1 id=',
    '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d83', '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d8333',
    '// MINISTORE JOURNAL v0.3.0 seq=1 id=5C1E9A70B2F4D833', '// MINISTORE JOURNAL v0.2.0 seq=1 id=5c1e9a70b2f4d83x',
  ])('without the identity that its version has, or with a damaged one, is refused: %j', (text) => {
    expect(() => parseHeader(text, where)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CORRUPT' }))
  })

  test('has 83 bytes with the longest fields', () => {
    const longest = formatHeader({ sequence: Number.MAX_SAFE_INTEGER, id, previousCrc32: 0xffffffff })
    expect(longest.length).toBe(83)
  })

  test('writes a small checksum with all its eight digits', () => {
    expect(formatHeader({ sequence: 2, id, previousCrc32: 0xab })).toContain('prev=000000ab\n')
  })

  test.each(['0.1.0', '0.1.1', '0.1.2', '0.1.3', '0.1.4'])('of version %s has no fields', (version) => {
    const header = parseHeader(`// MINISTORE JOURNAL v${version}`, where)
    expect(header).toMatchObject({ version, sequence: undefined, previousCrc32: undefined })
  })

  test('ignores a carriage return, unknown fields, and later minor versions', () => {
    const header = parseHeader('// MINISTORE JOURNAL v0.9.3-beta.1 seq=7 colour=red id=5c1e9a70b2f4d833 prev=00000001\r', where)
    expect(header).toMatchObject({ sequence: 7, previousCrc32: 1 })
  })

  test.each([
    '', '{"a":1}', '// MINISTORE JOURNAL', '// MINISTORE JOURNAL vX', '// MINISTORE JOURNAL v0.2',
    '// MINISTORE JOURNAL v0.2.0', '// MINISTORE JOURNAL v0.3.0 seq=0 id=5c1e9a70b2f4d833', '// MINISTORE JOURNAL v0.2.0 seq=x',
    '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833 prev=12', '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833 prev=GGGGGGGG',
    '// MINISTORE JOURNAL v0.1.4 seq=', '// MINISTORE JOURNAL v0.3.0 seq=99999999999999999 id=5c1e9a70b2f4d833',
    ' // MINISTORE JOURNAL v0.1.4',
  ])('that is damaged is refused: %j', (text) => {
    expect(() => parseHeader(text, where)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CORRUPT' }))
  })

  test('of a newer major version is refused by name', () => {
    expect(() => parseHeader('// MINISTORE JOURNAL v1.0.0 seq=1', where)).toThrow(
      expect.objectContaining({
        code: 'ERR_MINISTORE_UNSUPPORTED_VERSION', message: expect.stringContaining('1.0.0') as string,
      }),
    )
  })

  test('is recognized by each of its prefixes, and nothing else is mistaken for one', () => {
    const header = formatHeader({ sequence: 10, id, previousCrc32: 0xabcdef01 }).trimEnd()
    for (let length = 0; length <= header.length; length++) {
      expect(isPartialHeader(Buffer.from(header.slice(0, length))), header.slice(0, length)).toBe(true)
    }
    expect(isPartialHeader(Buffer.alloc(40))).toBe(true)
    for (const other of ['{', '//x', '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833{"a":1}', '\0{']) {
      expect(isPartialHeader(Buffer.from(other)), other).toBe(false)
    }
    expect(isPartialHeader(Buffer.alloc(4096))).toBe(false)
  })
})

describe('the seal', () => {
  const prefix = { bytes: 156, records: 3, crc32: 0x0a0e8f7c }

  test('is one line with its own checksum, and can be read back', () => {
    const line = formatSeal(prefix)
    const [, facts, check] = /^(bytes=156 records=3 crc32=0a0e8f7c) check=([0-9a-f]{8})\n$/.exec(line) ?? []
    expect(Number.parseInt(check ?? '', 16)).toBe(crc32(facts ?? ''))
    expect(parseSeal(line)).toEqual(prefix)
  })

  test('with any bit flipped, or cut anywhere, is invalid', () => {
    const line = Buffer.from(formatSeal(prefix))
    for (let bit = 0; bit < line.length * 8; bit++) {
      const damaged = Buffer.from(line)
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(parseSeal(damaged.toString('latin1'))).toBeUndefined()
    }
    for (let length = 0; length < line.length; length++) {
      expect(parseSeal(line.toString('latin1', 0, length))).toBeUndefined()
    }
  })

  test('with anything before or after it is invalid', () => {
    const line = formatSeal(prefix)
    for (const text of [`${line}x`, `${line}\n`, `x${line}`, ` ${line}`, line + line]) expect(parseSeal(text), text).toBeUndefined()
  })

  test('can be read however large its numbers are', async () => {
    const largest = { bytes: Number.MAX_SAFE_INTEGER, records: Number.MAX_SAFE_INTEGER - 1, crc32: 0xffffffff }
    const files = new SimulatedFileSystem()
    files.writeFile('/seal', formatSeal(largest))
    expect(await readSeal(files, '/seal')).toEqual(largest)
    files.writeFile('/seal', formatSeal(largest).padEnd(10_000, ' '))
    expect(await readSeal(files, '/seal')).toBeUndefined()
  })

  test('equals another prefix only if bytes, records and checksum are equal', () => {
    expect(isSameCheckpoint(prefix, { ...prefix })).toBe(true)
    for (const field of ['bytes', 'records', 'crc32'] as const) {
      expect(isSameCheckpoint(prefix, { ...prefix, [field]: prefix[field] + 1 }), field).toBe(false)
    }
  })
})

describe('the names of files', () => {
  const files = new JournalFiles('/state/journal.jsonl')

  test('of sealed segments have three digits or as many as they need', () => {
    expect([1, 42, 999, 1000].map((number) => files.sealedName(number))).toEqual([
      'journal.jsonl.001', 'journal.jsonl.042', 'journal.jsonl.999', 'journal.jsonl.1000',
    ])
  })

  test('are numbers with any count of digits, and nothing else', () => {
    expect(files.sealedNumber('journal.jsonl.000012')).toBe(12)
    const others = ['journal.jsonl', 'journal.jsonl.', 'journal.jsonl.1x', 'journal.jsonl.seal', 'other.001', 'journal.jsonl.torn-5']
    for (const name of others) {
      expect(files.sealedNumber(name), name).toBeUndefined()
    }
  })

  test('distinguish partial files left by a crash from files to keep', () => {
    for (const name of ['journal.jsonl.next', 'journal.jsonl.seal.tmp', 'journal.jsonl.torn-5.tmp', 'journal.jsonl.torn-5-2.tmp']) {
      expect(files.isLeftover(name), name).toBe(true)
    }
    for (const name of ['journal.jsonl', 'journal.jsonl.torn-5', 'journal.jsonl.seal', 'my.tmp', 'journal.jsonl.tmp', 'other.next']) {
      expect(files.isLeftover(name), name).toBe(false)
    }
  })
})

test('a prefix extended by lines has the checksum of all its bytes', () => {
  const header = Buffer.from('// header\n')
  const lines = Buffer.from('1\n2\n')
  expect(extendCheckpoint(headerCheckpoint(header), lines, 2)).toEqual({
    bytes: 14, records: 2, crc32: crc32(Buffer.concat([header, lines])),
  })
})

test('the worked example of the format page matches the written files', async () => {
  const page = await readFile(join(import.meta.dirname, '../../src/ministore/FORMAT.md'), 'utf8')
  const directory = await temporaryDirectory()
  const store = await MiniStore.open(join(directory, 'journal.jsonl'))
  await store.appendAll(['a', 'b'])
  await store.rotate()
  await store.append('c')
  await store.close()
  // The page's files are a journal. Those of the library differ only by the random identity.
  const copy = await temporaryDirectory()
  const masked = (text: string): string => text.replaceAll(/(id|prev|crc32|check)=[0-9a-f]+/g, '$1')
  for (const name of ['journal.jsonl.001', 'journal.jsonl', 'journal.jsonl.seal']) {
    const [, shown = ''] = new RegExp(`==> ${name} <==\\n((?:[^=\\n\`].*\\n)+)`).exec(page) ?? []
    expect(masked(shown)).toBe(masked(await readFile(join(directory, name), 'utf8')))
    await writeFile(join(copy, name), shown)
  }
  const damages: unknown[] = []
  const onDamage = (damage: unknown): void => void damages.push(damage)
  expect(await verifyJournal(nodeFileSystem, join(copy, 'journal.jsonl'), { onDamage })).toMatchObject({ records: 3 })
  expect(damages).toEqual([])
  await using again = await MiniStore.open(join(copy, 'journal.jsonl'))
  expect([again.id, await again.replay()]).toEqual([id, ['a', 'b', 'c']])
})
