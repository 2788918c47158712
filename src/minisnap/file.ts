import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'

import { hasCode, MiniStoreError } from '../errors.ts'
import { readFully } from '../fs/bytes.ts'
import { writeFully } from '../fs/durable.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { checkHead, checksumOf, end, formatHead, headBytes, hex, maxTextBytes, mostHeadBytes, textTooLarge } from './format.ts'

/**
 * Maximum bytes per write and per read. Writing a text in chunks avoids a second copy of all of it.
 * Larger chunks take more memory; smaller ones need more trips through the thread pool.
 */
const chunkBytes = 1024 * 1024

/**
 * Writes a snapshot into an empty file and resolves with the file's size in bytes. The content is
 * not durable yet. No reader may use the file until this resolves.
 *
 * The head holds the checksum of the state that follows it. A separate pass for the checksum would
 * encode the text twice, so the head is written last, into the space left for it. Until then the
 * file is not a valid snapshot. This is safe because the file gets its name only afterwards.
 */
export async function writeSnapshot(
  file: File,
  { texts, sequence, journal }: {
    readonly texts: Iterable<string>
    readonly sequence: number
    readonly journal: string | undefined
  },
): Promise<number> {
  let position = headBytes({ sequence, journal })
  let checksum = checksumOf(journal)
  for (const text of texts) {
    for (const piece of encodedPieces(text)) {
      checksum = crc32(piece, checksum)
      await writeFully(file, piece, position)
      position += piece.length
    }
  }
  await writeFully(file, Buffer.from(end), position)
  await writeFully(file, Buffer.from(formatHead({ sequence, crc32: checksum, journal })), 0)
  return position + end.length
}

/**
 * Encodes a text as UTF-8, piece by piece. The text must not contain half surrogate pairs. Each
 * piece is valid only until the next one is requested.
 */
function* encodedPieces(text: string): Generator<Buffer, void, undefined> {
  // A UTF-16 code unit takes one to three bytes in UTF-8.
  const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, 3 * text.length))
  const encoder = new TextEncoder()
  for (let at = 0; at < text.length; ) {
    // A slice may end in the middle of a surrogate pair. The text before that half leaves at most
    // one byte of the buffer free. So the half does not fit, and the next slice begins with it.
    const { read, written } = encoder.encodeInto(text.slice(at, at + buffer.length), buffer)
    at += read
    yield buffer.subarray(0, written)
  }
}

/** The path and sequence number of a snapshot. */
export interface SnapshotFile {
  readonly path: string
  readonly sequence: number
}

/**
 * Returns the text of a snapshot's state, and the identity of its journal if it names one, after
 * checking that the whole file is as it was written.
 *
 * Rejects with the original system error if the file cannot be read, `ENOENT` if it does not exist.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if the file is damaged;
 *   `ERR_MINISTORE_STATE_TOO_LARGE` if no string can hold the text.
 */
export function readSnapshot(
  fs: FileSystem,
  snapshot: SnapshotFile,
): Promise<{ readonly text: string; readonly journal: string | undefined }> {
  return withFile(fs, snapshot, async (file, found) => {
    if (found.bytes > maxTextBytes) throw textTooLarge(snapshot)
    const state = Buffer.allocUnsafe(found.bytes)
    await checkState(file, { ...found, snapshot }, (position, bytes) => state.subarray(position, position + bytes))
    if (!isUtf8(state)) throw damaged(snapshot, 'its state is not UTF-8')
    return { text: state.toString(), journal: found.journal }
  })
}

/**
 * Resolves if the whole file is as it was written, with the identity of its journal if it names one.
 * Checks bytes only, and holds one chunk in memory at a time.
 *
 * Rejects with the original system error if the file cannot be read, `ENOENT` if it does not exist.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if the file is damaged.
 */
export function verifySnapshot(fs: FileSystem, snapshot: SnapshotFile): Promise<string | undefined> {
  return withFile(fs, snapshot, async (file, found) => {
    const chunk = Buffer.allocUnsafe(Math.min(chunkBytes, found.bytes))
    await checkState(file, { ...found, snapshot }, (_, bytes) => chunk.subarray(0, bytes))
    return found.journal
  })
}

/** The error for a damaged snapshot. */
export function damaged({ path, sequence }: SnapshotFile, reason: string, cause?: unknown): MiniStoreError {
  const message = `The snapshot ${path} is damaged: ${reason}`
  return new MiniStoreError('ERR_MINISTORE_SNAPSHOT_DAMAGED', message, { path, sequence, cause })
}

/** Returns whether an error says that a snapshot, or every snapshot, is damaged. */
export function isDamage(error: unknown): error is MiniStoreError {
  return hasCode(error, 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
}

/** The position of the state in the file, and what the head says. */
interface State {
  readonly offset: number
  readonly bytes: number
  readonly journal: string | undefined
  readonly crc32: number
}

async function withFile<T>(
  fs: FileSystem,
  snapshot: SnapshotFile,
  task: (file: File, state: State) => Promise<T>,
): Promise<T> {
  const file = await fs.open(snapshot.path, 'read')
  try {
    return await task(file, await checkEnds(file, snapshot))
  } finally {
    // The file was only read, so an error of close does not matter.
    await file.close().catch(() => {})
  }
}

async function checkEnds(file: File, snapshot: SnapshotFile): Promise<State> {
  const { size } = await file.stat()
  const { sequence } = snapshot
  const tooFew = `it has only ${size} bytes, too few for a snapshot`
  // A state takes at least one byte.
  if (size < headBytes({ sequence, journal: undefined }) + 1 + end.length) throw damaged(snapshot, tooFew)
  const ends = Buffer.allocUnsafe(Math.min(size, mostHeadBytes(sequence)) + end.length)
  const start = ends.subarray(0, -end.length)
  await readFully(file, start, 0)
  await readFully(file, ends.subarray(start.length), size - end.length)
  const head = checkHead(start.toString('latin1'), sequence)
  if ('problem' in head) throw damaged(snapshot, head.problem)
  const { bytes: offset, crc32: expected, journal } = head
  const bytes = size - offset - end.length
  if (bytes < 1) throw damaged(snapshot, tooFew)
  if (ends.toString('latin1', start.length) !== end) throw damaged(snapshot, 'its end is not that of a snapshot')
  return { offset, bytes, crc32: expected, journal }
}

/** Reads the state chunk by chunk into the buffers from `memoryFor` and compares its checksum. */
async function checkState(
  file: File,
  state: State & { readonly snapshot: SnapshotFile },
  memoryFor: (position: number, bytes: number) => Buffer,
): Promise<void> {
  let checksum = checksumOf(state.journal)
  for (let position = 0; position < state.bytes; position += chunkBytes) {
    const chunk = memoryFor(position, Math.min(chunkBytes, state.bytes - position))
    await readFully(file, chunk, state.offset + position)
    checksum = crc32(chunk, checksum)
  }
  if (checksum === state.crc32) return
  throw damaged(state.snapshot, `its state has the checksum ${hex(checksum)}, expected ${hex(state.crc32)}`)
}
