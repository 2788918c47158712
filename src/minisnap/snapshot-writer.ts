import { crc32 } from 'node:zlib'

import { writeFully } from '../fs/durable.ts'
import type { File } from '../fs/file-system.ts'
import { end, formatHead, headBytes } from './snapshot-format.ts'

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
