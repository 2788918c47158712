import { appendFile, readFile, writeFile } from 'node:fs/promises'
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

/** Appends bytes to a file without the library. */
export async function addBytes(path: string, bytes: string | Uint8Array): Promise<void> {
  await appendFile(path, bytes)
}

/** Whole numbers from `first` to `last`, inclusive. */
export function numbers(first: number, last: number): number[] {
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, index) => first + index)
}
