import { MiniStoreError } from '../errors.ts'
import { ifPresent, writeFully } from './durable.ts'
import type { File, FileSystem } from './file-system.ts'

/** Maximum size of a chunk that {@link readRange} yields, in bytes (256 KiB). */
const chunkBytes = 256 * 1024

/** A range of a file, in bytes. */
export interface ByteRange {
  readonly offset: number
  readonly bytes: number
}

/**
 * Reads a range of a file in chunks. `position` is relative to the start of the range.
 *
 * Each chunk is valid only until the next one is requested, because all chunks share one buffer.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the file ends before the range does.
 */
export async function* readRange(
  file: File,
  range: ByteRange,
): AsyncGenerator<{ readonly bytes: Buffer; readonly position: number }> {
  const buffer = Buffer.alloc(Math.min(chunkBytes, range.bytes))
  for (let position = 0; position < range.bytes; position += chunkBytes) {
    const bytes = buffer.subarray(0, Math.min(chunkBytes, range.bytes - position))
    await readFully(file, bytes, range.offset + position)
    yield { bytes, position }
  }
}

/**
 * Copies a range of a file to the beginning of another file, which must be empty.
 *
 * Chunks that contain only NUL bytes are skipped, so the copy of a sparse file is sparse too. The
 * last chunk is always written, because it sets the length. The copy is not synced.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the source ends before the range does.
 */
export async function copyRange(source: File, target: File, range: ByteRange): Promise<void> {
  for await (const { bytes, position } of readRange(source, range)) {
    const isLast = position + bytes.length === range.bytes
    if (isLast || !bytes.equals(zeros.subarray(0, bytes.length))) await writeFully(target, bytes, position)
  }
}

const zeros = Buffer.alloc(chunkBytes)

/**
 * Checks whether the file at a path holds exactly the bytes of a range of another file. The result
 * is `false` if no file exists at the path or a symbolic link there leads nowhere.
 */
export async function isCopyOfRange(
  fs: FileSystem,
  path: string,
  source: File,
  range: ByteRange,
): Promise<boolean> {
  const copy = await ifPresent(fs.open(path, 'read'))
  if (copy === undefined) return false
  try {
    if ((await copy.stat()).size !== range.bytes) return false
    const buffer = Buffer.alloc(Math.min(chunkBytes, range.bytes))
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

/**
 * Fills a buffer with the bytes at a position, continuing after short reads.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the file ends before the buffer is full.
 */
export async function readFully(file: File, buffer: Buffer, position: number): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const read = await file.read(buffer.subarray(done), position + done)
    if (read === 0) {
      const message = `The file ends at byte ${position + done}, expected ${buffer.length - done} more bytes`
      throw new MiniStoreError('ERR_MINISTORE_IO', message)
    }
    done += read
  }
}

/**
 * Where the data of a file ends: after its last byte that is not NUL. Returns `from` if there is no
 * such byte between `from` and `size`.
 *
 * Reads one byte if the data reaches to the end of the file. Otherwise reads backwards over the NUL
 * bytes, in chunks. A writer may cut them off during the call, so a file that ends before `size` is
 * no error.
 */
export async function endOfData(file: File, { from, size }: { readonly from: number; readonly size: number }): Promise<number> {
  let space = Buffer.allocUnsafe(1)
  for (let to = size; to > from; ) {
    const start = Math.max(from, to - space.length)
    const chunk = space.subarray(0, await readUpTo(file, space.subarray(0, to - start), start))
    const length = lengthWithoutNuls(chunk)
    if (length > 0) return start + length
    to = start
    if (space.length === 1) space = Buffer.allocUnsafe(Math.min(chunkBytes, size))
  }
  return from
}

/** Fills a buffer as far as the file reaches, and returns how many bytes were read. */
async function readUpTo(file: File, buffer: Buffer, position: number): Promise<number> {
  for (let done = 0; ; ) {
    const read = done === buffer.length ? 0 : await file.read(buffer.subarray(done), position + done)
    if (read === 0) return done
    done += read
  }
}

/** The length of some bytes without the NUL bytes at their end. */
function lengthWithoutNuls(bytes: Buffer): number {
  // Halves the range that holds the end of the data. Comparing memory is faster than a loop.
  let [least, most] = [0, bytes.length]
  while (least < most) {
    const middle = (least + most) >> 1
    if (bytes.subarray(middle, most).equals(zeros.subarray(0, most - middle))) most = middle
    else least = middle + 1
  }
  return most
}

/** Most bytes that {@link RecentBytes} keeps (256 KiB), as many as a reader takes at once. */
export const recentBytes: number = 256 * 1024

/**
 * The bytes last added to the end of one file, for readers in the same thread that follow it. Keeps
 * at most {@link recentBytes} of them, and none before {@link keep} is called.
 */
export class RecentBytes {
  /** The byte at position `p` of the file is at `p % recentBytes`. */
  #ring: Buffer | undefined
  #file: object | undefined
  /** Positions in the file of the first byte kept and after the last one. */
  #start = 0
  #end = 0

  /** What was last read. Readers that have come to the same position share it. */
  #last: { readonly file: object; readonly position: number; readonly copy: Buffer } | undefined

  /** Keeps what is added from now on. */
  keep(): void {
    this.#ring ??= Buffer.allocUnsafeSlow(recentBytes)
  }

  /**
   * Adds bytes that were written at a position.
   *
   * @param file Identifies the file. Bytes of one file at a time are kept.
   */
  add(file: object, bytes: Buffer, position: number): void {
    if (this.#ring === undefined) return
    const end = position + bytes.length
    if (file !== this.#file || position !== this.#end) this.#start = position
    this.#file = file
    this.#end = end
    this.#start = Math.max(this.#start, end - recentBytes)
    const from = Math.max(position, this.#start)
    const at = from % recentBytes
    const copied = bytes.copy(this.#ring, at, from - position)
    bytes.copy(this.#ring, 0, from - position + copied)
  }

  /**
   * A copy of up to `most` bytes at a position of a file. Undefined if they are not kept. Readers
   * share the copy, so they must not change it.
   */
  read(file: object, position: number, most: number): Buffer | undefined {
    if (this.#ring === undefined || file !== this.#file || position < this.#start || position >= this.#end) return undefined
    const length = Math.min(most, this.#end - position)
    const last = this.#last
    if (last?.file === file && last.position === position && last.copy.length === length) return last.copy
    const copy = Buffer.allocUnsafe(length)
    this.#last = { file, position, copy }
    const at = position % recentBytes
    const copied = this.#ring.copy(copy, 0, at, Math.min(at + copy.length, recentBytes))
    this.#ring.copy(copy, copied, 0, copy.length - copied)
    return copy
  }
}
