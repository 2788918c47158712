import { MiniStoreError } from '../errors.ts'
import { openIfPresent, writeFully } from './durable.ts'
import type { File, FileSystem } from './file-system.ts'

/** No chunk of {@link readRange} is larger. */
export const rangeChunkBytes: number = 256 * 1024

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

/**
 * Copies a part of a file to the beginning of another, which is empty. Chunks of nothing but NULs are left out, so that
 * the copy of a sparse file is sparse; the last one is written and sets the length.
 */
export async function copyRange(
  source: File,
  target: File,
  range: { readonly offset: number; readonly bytes: number },
): Promise<void> {
  for await (const { bytes, position } of readRange(source, range)) {
    const isLast = position + bytes.length === range.bytes
    if (isLast || !bytes.equals(zeros.subarray(0, bytes.length))) await writeFully(target, bytes, position)
  }
}

const zeros = Buffer.alloc(rangeChunkBytes)

/** Whether the file at a path holds exactly the bytes of a part of another one; a link that leads nowhere does not. */
export async function isCopyOfRange(
  fs: FileSystem,
  path: string,
  source: File,
  range: { readonly offset: number; readonly bytes: number },
): Promise<boolean> {
  const copy = await openIfPresent(fs, path, 'read')
  if (copy === undefined) return false
  try {
    if ((await copy.stat()).size !== range.bytes) return false
    const buffer = Buffer.alloc(Math.min(rangeChunkBytes, range.bytes))
    for await (const { bytes, position } of readRange(source, range)) {
      const other = buffer.subarray(0, bytes.length)
      await readFully(copy, other, position)
      if (!other.equals(bytes)) return false
    }
    return true
  } finally {
    await copy.close()
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
