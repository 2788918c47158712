import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'

import { MiniStoreError } from '../errors.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { readFully } from '../fs/bytes.ts'
import { checkHead, end, headBytes, hex } from './snapshot-format.ts'
import { maxTextBytes, textTooLarge } from './text-limit.ts'

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
