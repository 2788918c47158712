import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'

import { MiniStoreError } from '../errors.ts'
import { readFully } from '../fs/bytes.ts'
import { writeFully } from '../fs/durable.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { checkHead, end, formatHead, headBytes, hex, maxTextBytes, textTooLarge } from './format.ts'

/** The text becomes bytes in pieces of at most this size, so that there is never a second copy of all of it. */
const pieceBytes = 1024 * 1024

/**
 * Writes a snapshot into an empty file that nobody reads yet; gives its length. Nothing is durable.
 *
 * The head holds the checksum of what follows it, so it is written last, into the place left for it: a pass over the text
 * only for the checksum would encode it twice. That the file is no snapshot until then harms nobody, for it
 * gets its name after that.
 */
export async function writeSnapshot(
  file: File,
  { texts, sequence }: { readonly texts: Iterable<string>; readonly sequence: number },
): Promise<number> {
  let position = headBytes(sequence)
  let checksum = 0
  for (const text of texts) {
    for (const piece of encodedPieces(text)) {
      checksum = crc32(piece, checksum)
      await writeFully(file, piece, position)
      position += piece.length
    }
  }
  await writeFully(file, Buffer.from(end), position)
  await writeFully(file, Buffer.from(formatHead({ sequence, crc32: checksum })), 0)
  return position + end.length
}

/** The text as UTF-8, which it must have (no half surrogate pairs); each piece is valid until the next is asked for. */
function* encodedPieces(text: string): Generator<Buffer, void, undefined> {
  // A unit of UTF-16 takes from one byte to three.
  const buffer = Buffer.allocUnsafe(Math.min(pieceBytes, 3 * text.length))
  const encoder = new TextEncoder()
  for (let at = 0; at < text.length; ) {
    // Where the slice ends between the halves of a pair, the half does not fit behind what comes before it.
    const { read, written } = encoder.encodeInto(text.slice(at, at + buffer.length), buffer)
    at += read
    yield buffer.subarray(0, written)
  }
}

/** A snapshot and where it lies. */
export interface SnapshotFile {
  readonly path: string
  readonly sequence: number
}

/** Bytes read at once: larger ones cost memory, smaller ones hops through the thread pool. */
const chunkBytes = 1024 * 1024

/**
 * The text of a snapshot's state, once the whole file is as it was written.
 *
 * Rejects with the system's own error when it cannot be read, `ENOENT` when it is not there.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED`; `ERR_MINISTORE_STATE_TOO_LARGE` when no string can hold it.
 */
export function readSnapshot(fs: FileSystem, snapshot: SnapshotFile): Promise<string> {
  return withFile(fs, snapshot, async (file, checked) => {
    if (checked.bytes > maxTextBytes) throw textTooLarge(snapshot)
    const state = Buffer.allocUnsafe(checked.bytes)
    await checkState(file, { ...checked, snapshot }, (position, bytes) => state.subarray(position, position + bytes))
    if (!isUtf8(state)) throw damaged(snapshot, 'its state is not UTF-8')
    return state.toString()
  })
}

/**
 * Resolves when the whole file is as it was written. Holds one chunk of it at a time and looks at nothing but bytes.
 * Rejects as {@link readSnapshot} does.
 */
export function verifySnapshot(fs: FileSystem, snapshot: SnapshotFile): Promise<void> {
  return withFile(fs, snapshot, (file, checked) => {
    const chunk = Buffer.allocUnsafe(Math.min(chunkBytes, checked.bytes))
    return checkState(file, { ...checked, snapshot }, (_, bytes) => chunk.subarray(0, bytes))
  })
}

/** The error for a snapshot that is not as it was written. */
export function damaged({ path, sequence }: SnapshotFile, reason: string, cause?: unknown): MiniStoreError {
  const message = `The snapshot ${path} is damaged: ${reason}`
  return new MiniStoreError('ERR_MINISTORE_SNAPSHOT_DAMAGED', message, { path, sequence, cause })
}

/** What head and end of a file say of the state between them. */
interface State {
  readonly offset: number
  readonly bytes: number
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
    // It was only read, so nothing that closing could report would matter.
    await file.close().catch(() => {})
  }
}

async function checkEnds(file: File, snapshot: SnapshotFile): Promise<State> {
  const { size } = await file.stat()
  const offset = headBytes(snapshot.sequence)
  const bytes = size - offset - end.length
  // A state has one byte at least.
  if (bytes < 1) throw damaged(snapshot, `${size} bytes are less than a snapshot has`)
  const ends = Buffer.allocUnsafe(offset + end.length)
  await readFully(file, ends.subarray(0, offset), 0)
  await readFully(file, ends.subarray(offset), offset + bytes)
  const head = checkHead(ends.toString('latin1', 0, offset), snapshot.sequence)
  if ('problem' in head) throw damaged(snapshot, head.problem)
  if (ends.toString('latin1', offset) !== end) throw damaged(snapshot, 'it does not end as a snapshot does')
  return { offset, bytes, crc32: head.crc32 }
}

/** Reads the state into the memory that it is given for each chunk, and holds it against its checksum. */
async function checkState(
  file: File,
  state: State & { readonly snapshot: SnapshotFile },
  memoryFor: (position: number, bytes: number) => Buffer,
): Promise<void> {
  let checksum = 0
  for (let position = 0; position < state.bytes; position += chunkBytes) {
    const chunk = memoryFor(position, Math.min(chunkBytes, state.bytes - position))
    await readFully(file, chunk, state.offset + position)
    checksum = crc32(chunk, checksum)
  }
  if (checksum === state.crc32) return
  throw damaged(state.snapshot, `its state has the checksum ${hex(checksum)}, expected ${hex(state.crc32)}`)
}
