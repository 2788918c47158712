import { appendFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { crc32 } from 'node:zlib'

import { MiniStore, type OpenOptions } from '../../src/index.ts'

/**
 * Writes a journal and closes it. Each list of records becomes one segment, and the last one is
 * active. An empty last list leaves the active segment empty.
 */
export async function writeJournal(
  path: string,
  segments: ReadonlyArray<readonly unknown[]>,
  options: OpenOptions = {},
): Promise<void> {
  const store = await MiniStore.open(path, options)
  for (const [index, records] of segments.entries()) {
    if (index > 0) await store.rotate()
    await store.appendAll(records)
  }
  await store.close()
}

/**
 * Writes a journal as a program of format version 0.2.0 leaves it: without an identity. Each list of
 * records becomes one segment.
 */
export async function writeOldJournal(path: string, segments: ReadonlyArray<readonly unknown[]>): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  let [sequence, previous] = [1, '']
  for (const [index, records] of segments.entries()) {
    const name = index === segments.length - 1 ? path : `${path}.${String(index + 1).padStart(3, '0')}`
    const lines = records.map((record) => JSON.stringify(record))
    await writeSegment(name, `// MINISTORE JOURNAL v0.2.0 seq=${sequence}${previous}`, lines)
    sequence += records.length
    previous = ` prev=${await crc32Of(name)}`
  }
}

/** Writes one segment file without the library: a header and the given lines. */
export async function writeSegment(
  path: string,
  header: string,
  lines: ReadonlyArray<string | Uint8Array>,
): Promise<void> {
  const newline = Buffer.from('\n')
  await writeFile(
    path,
    Buffer.concat([header, ...lines].flatMap((line) => [Buffer.from(line as string), newline])),
  )
}

/** Changes the bytes of a file in place. */
export async function editFile(path: string, edit: (content: Buffer) => Uint8Array): Promise<void> {
  await writeFile(path, edit(await readFile(path)))
}

/** The CRC-32 of a file, in the form that headers and seals use. */
export async function crc32Of(path: string): Promise<string> {
  return crc32(await readFile(path))
    .toString(16)
    .padStart(8, '0')
}

/** The identity in the header of a segment. */
export async function idAt(path: string): Promise<string> {
  const [header = ''] = (await readFile(path, 'utf8')).split('\n', 1)
  const [, id] = / id=([0-9a-f]{16})(?: |$)/.exec(header) ?? []
  if (id === undefined) throw new Error(`${path} has no identity in its header ${header}`)
  return id
}

/** Appends bytes to a file without the library. */
export async function addBytes(path: string, bytes: string | Uint8Array): Promise<void> {
  await appendFile(path, bytes)
}

/** Whole numbers from `first` to `last`, inclusive. */
export function numbers(first: number, last: number): number[] {
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, index) => first + index)
}
