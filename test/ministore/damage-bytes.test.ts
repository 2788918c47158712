import { expect, test } from 'vitest'

import { MiniStore, MiniStoreError } from '../../src/index.ts'
import { outcomeOf } from '../support/consume.ts'
import { isFullCrashSuite } from '../support/crash-scale.ts'
import { type Damage, damagedCopy, flips, type Journal, path, truncations, writeJournal } from '../support/damaged-journals.ts'

/** Every flip, or in an ordinary run one of seven, which meets every bit and every kind of byte. */
function* someFlips(bytes: Buffer): Generator<Damage> {
  let turns = 0
  for (const flip of flips(bytes)) if (isFullCrashSuite || turns++ % 7 === 0) yield flip
}

/** What a stream of bytes gave, line by line, and the error it ended with, if any. */
async function linesAndError(source: AsyncIterable<Uint8Array>): Promise<{ lines: string[]; error: unknown }> {
  const { items, error } = await outcomeOf(source)
  return { lines: Buffer.concat(items).toString('latin1').split('\n').slice(0, -1), error }
}

/** Compares bytes() with a stream of the same lines, in one range, and counts what differs. */
async function compare(
  open: (options: object) => { bytes: AsyncIterable<Uint8Array>; stream: AsyncIterable<string> },
  range: object,
  what: string,
): Promise<'same' | 'error' | 'late'> {
  const { bytes, stream } = open(range)
  const given = await linesAndError(bytes)
  const { items: expected, error } = await outcomeOf(stream)
  const lines = expected.map((line) => Buffer.from(line).toString('latin1'))
  expect(given.error === undefined, `${what}: ${String(given.error)}, the stream: ${String(error)}`).toBe(error === undefined)
  if (String(given.error) === String(error)) {
    expect(given.lines, what).toEqual(lines)
    return error === undefined ? 'same' : 'error'
  }
  // A line that is not JSON, where a checksum covers it, shows when the checksum is compared.
  expect(error, what).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
  expect(String(error), what).toContain('A line is not JSON')
  expect(given.error, what).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
  expect(given.lines.slice(0, lines.length), what).toEqual(lines)
  return 'late'
}

const plain = { decode: (line: string) => line }
const json = { decode: (line: string) => (JSON.parse(line), line) }
/** A codec whose lines are JSON fails with another code, so the error is turned into that of JSON. */
async function* asJson(stream: AsyncIterable<string>): AsyncGenerator<string> {
  try {
    yield* stream
  } catch (error) {
    if (!(error instanceof MiniStoreError) || error.code !== 'ERR_MINISTORE_CODEC') throw error
    const message = error.message.replace("The codec's decode threw", 'A line is not JSON')
    throw new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { cause: error.cause })
  }
}

const ranges = [{}, { to: 1 }, { to: 3 }, { from: 2, to: 4 }, { to: 5 }, { to: 7 }, { from: 5, to: 11 }, { from: 6 }, { from: 9, to: 10 }, { to: 12 }, { to: 8 }]

async function compareAll(journal: Journal, damages: (bytes: Buffer) => Iterable<Damage>): Promise<Record<string, number>> {
  const counts = { same: 0, error: 0, late: 0 }
  let turns = 0
  for (const [name, bytes] of journal.files) {
    for (const damage of damages(bytes)) {
      const fileSystem = damagedCopy(journal, name, damage.bytes)
      const open = (range: object): { bytes: AsyncIterable<Uint8Array>; stream: AsyncIterable<string> } => ({
        bytes: MiniStore.bytes(path, { ...range, fileSystem }),
        stream: asJson(MiniStore.stream(path, { ...range, fileSystem, codec: json })),
      })
      const range = ranges[turns++ % ranges.length] as object
      const what = `${name} ${damage.name}, ${JSON.stringify(range)}`
      counts[await compare(open, {}, what)]++
      counts[await compare(open, range, what)]++
      // With a codec nothing is parsed, and nothing may differ.
      const withCodec = (options: object): ReturnType<typeof open> => ({
        bytes: MiniStore.bytes(path, { ...options, fileSystem, codec: plain }),
        stream: MiniStore.stream(path, { ...options, fileSystem, codec: plain }),
      })
      expect(await compare(withCodec, range, `${what}, codec`)).not.toBe('late')
    }
  }
  return counts
}

test.each(['closed', 'with an older seal', 'without a seal'] as const)(
  'damage of every kind ends bytes() as it ends stream(), after the same lines: a journal %s',
  async (how) => {
    const journal = await writeJournal(how)
    const cut = await compareAll(journal, truncations)
    const flipped = await compareAll(journal, someFlips)
    console.log(`bytes() and stream() of damaged journals, ${how}: cut ${JSON.stringify(cut)}, flipped ${JSON.stringify(flipped)}`)
    expect(Math.min(cut['same'] ?? 0, cut['error'] ?? 0)).toBeGreaterThan(50)
    expect(Math.min(flipped['same'] ?? 0, flipped['error'] ?? 0, flipped['late'] ?? 0)).toBeGreaterThan(50)
  },
  240_000,
)
