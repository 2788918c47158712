import type { File } from '../fs/file-system.ts'
import { LineBlocks } from './line-blocks.ts'
import { describeUncleanLine, isCleanBlock, isCleanLine, linesOf } from './line-checks.ts'
import { countLines, extendPrefix, type SegmentPrefix } from './segment-prefix.ts'
import { findLongTornEnd } from './torn-end.ts'

/** What the bytes of a segment say, without parsing them. */
export interface SegmentScan {
  /** All whole, clean lines up to the first that is not. */
  readonly prefix: SegmentPrefix
  /** What the first `checkpoint` bytes hold; undefined when there are fewer. */
  readonly atCheckpoint: SegmentPrefix | undefined
  /** Bytes after {@link prefix} that are no whole, clean line, and nothing after them. */
  readonly torn: { readonly bytes: number; readonly reason: string } | undefined
  /** An unclean line with something after it. It is the first line after {@link prefix}. */
  readonly damage: { readonly reason: string } | undefined
}

/**
 * Reads a segment from its first byte to `end`, counting lines, checking them and taking their checksum.
 *
 * An unclean line is torn when nothing follows it, whether or not it ends in `\n`: a crash leaves
 * its mark on the last write only. With something behind it, it is damage.
 */
export async function scanSegment(
  file: File,
  options: { readonly end: number; readonly checkpoint?: number | undefined },
): Promise<SegmentScan> {
  const { end, checkpoint } = options
  const long = await findLongTornEnd(file, { from: 0, end })
  const blocks = new LineBlocks(file)
  try {
    const scan = await scanBlocks(blocks, { end: long?.offset ?? end, checkpoint })
    if (long === undefined || scan.damage !== undefined) return scan
    // With the long end behind it, no other line is the last one.
    if (scan.torn !== undefined) return { ...scan, torn: undefined, damage: { reason: scan.torn.reason } }
    return { ...scan, torn: { bytes: long.bytes, reason: long.reason } }
  } finally {
    await blocks.release()
  }
}

async function scanBlocks(
  blocks: LineBlocks,
  { end, checkpoint }: { readonly end: number; readonly checkpoint?: number | undefined },
): Promise<SegmentScan> {
  // The header is a line and no record, hence -1.
  let prefix: SegmentPrefix = { bytes: 0, records: -1, crc32: 0 }
  let atCheckpoint: SegmentPrefix | undefined
  let unclean: { offset: number; bytes: number; reason: string } | undefined
  for (let block; (block = await blocks.next(end)) !== undefined; ) {
    if (unclean !== undefined) break
    const clean = isCleanBlock(block) ? block : block.subarray(0, cleanLength(block))
    if (checkpoint !== undefined && checkpoint > prefix.bytes && checkpoint <= prefix.bytes + clean.length) {
      const upTo = clean.subarray(0, checkpoint - prefix.bytes)
      atCheckpoint = extendPrefix(prefix, upTo, countLines(upTo))
    }
    prefix = extendPrefix(prefix, clean, countLines(clean))
    if (clean.length < block.length) {
      const line = block.subarray(clean.length, block.indexOf(0x0a, clean.length))
      unclean = { offset: prefix.bytes, bytes: line.length + 1, reason: describeUncleanLine(line) }
      if (prefix.bytes + unclean.bytes < blocks.offset) break
    }
  }
  if (unclean !== undefined && unclean.offset + unclean.bytes < end) {
    return { prefix, atCheckpoint, torn: undefined, damage: { reason: unclean.reason } }
  }
  const bytes = end - prefix.bytes
  const reason = unclean?.reason ?? 'the line has no line feed'
  return { prefix, atCheckpoint, torn: bytes === 0 ? undefined : { bytes, reason }, damage: undefined }
}

function cleanLength(block: Buffer): number {
  for (const { offset, line } of linesOf(block)) if (!isCleanLine(line)) return offset
  return block.length
}
