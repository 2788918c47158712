import { MiniStoreError } from '../errors.ts'
import type { File } from './file-system.ts'

/** No chunk of {@link readRange} is larger. */
export const rangeChunkBytes: number = 64 * 1024

/** Reads a part of a file in chunks; each is valid until the next is asked for. `position` counts from the part's start. */
export async function* readRange(
  file: File,
  range: { readonly offset: number; readonly bytes: number },
): AsyncGenerator<{ readonly bytes: Buffer; readonly position: number }> {
  const buffer = Buffer.alloc(Math.min(rangeChunkBytes, range.bytes))
  for (let position = 0; position < range.bytes; position += rangeChunkBytes) {
    const bytes = buffer.subarray(0, Math.min(rangeChunkBytes, range.bytes - position))
    await readFully(file, bytes, range.offset + position)
    yield { bytes, position }
  }
}

/** Fills a buffer from a file. */
export async function readFully(file: File, buffer: Buffer, position: number): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const read = await file.read(buffer.subarray(done), position + done)
    if (read === 0) {
      const message = `The file ended at ${position + done}, expected ${buffer.length - done} more bytes`
      throw new MiniStoreError('ERR_MINISTORE_IO', message)
    }
    done += read
  }
}
