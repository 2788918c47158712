import { MiniStore } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

// Uses the simulated file system, because many thousand damaged journals are opened and every open
// syncs.

export const path = '/data/journal.jsonl'
export const active = 'journal.jsonl'

type Files = ReadonlyMap<string, Buffer>
export type Entries = ReadonlyArray<readonly [number, string]>

export interface Journal {
  readonly files: Files
  readonly entries: Entries
  /** Number of bytes of the active segment that its seal covers. */
  readonly sealedBytes: number
}

export interface Damage {
  readonly name: string
  /** Offset of the first changed byte. */
  readonly offset: number
  readonly bytes: Buffer
}

/**
 * Texts with bytes that one flipped bit turns into NUL, into a line feed, or into invalid UTF-8.
 */
const records = [
  { at: '@', n: 1 },
  2,
  { n: 3, text: ' ä€' },
  'JKHNBZ*',
  { n: 5 },
  [6, ' @'],
  { n: 7 },
  8,
  { n: 9 },
  ' @ ',
  { n: 11 },
  '😀@',
]

export async function writeJournal(how: 'closed' | 'with an older seal' | 'without a seal'): Promise<Journal> {
  const files = new SimulatedFileSystem()
  const options = { fileSystem: files, maxBytesPerSegment: 95 }
  const first = await MiniStore.open(path, options)
  for (const record of records.slice(0, 9)) await first.append(record)
  await first.close()
  // Without a seal: the rotation has removed it, and no new one has been written.
  const store = await MiniStore.open(
    path,
    how === 'without a seal' ? { ...options, maxBytesPerSegment: 1 } : { fileSystem: files },
  )
  if (how === 'without a seal') await store.append(records[9])
  await store.appendAll(how === 'without a seal' ? records.slice(10) : records.slice(9))
  if (how === 'closed') await store.close()
  const copy = new Map([...files.snapshot()].map(([at, bytes]) => [at.slice('/data/'.length), bytes]))
  const seal = copy.get(`${active}.seal`)?.toString() ?? 'bytes=0 '
  if (how !== 'closed') await store.close()
  const entries = records.map((record, index) => [index + 1, JSON.stringify(record)] as const)
  return { files: copy, entries, sealedBytes: Number(/bytes=(\d+) /.exec(seal)?.[1]) }
}

export function* truncations(bytes: Buffer): Generator<Damage> {
  for (let length = 0; length < bytes.length; length++) {
    yield { name: `cut to ${length} bytes`, offset: length, bytes: bytes.subarray(0, length) }
  }
}

export function* flips(bytes: Buffer): Generator<Damage> {
  for (let offset = 0; offset < bytes.length; offset++) {
    for (let bit = 0; bit < 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[offset] = (flipped[offset] ?? 0) ^ (1 << bit)
      yield { name: `bit ${bit} of byte ${offset} flipped`, offset, bytes: flipped }
    }
  }
}

export function damagedCopy(journal: Journal, name: string, bytes: Buffer): SimulatedFileSystem {
  const files = new SimulatedFileSystem()
  for (const [at, content] of journal.files) files.writeFile(`/data/${at}`, at === name ? bytes : content)
  return files
}
