import type { Defect } from './defects.ts'

/** Defects of `bytes()`. */
export const bytesDefects: readonly Defect[] = [
  {
    name: 'bytes: a block is given before it is checked',
    patches: [
      {
        file: 'ministore/lines.ts',
        find: 'const good = damage === undefined ? block : block.subarray(0, offsetAfterLines(block, this.#lines))',
        by: 'const good = block',
      },
    ],
    finding: /^bytes: nothing from the first unclean line on: Error: bytes\(\) gave /,
  },
  {
    name: 'bytes: blocks are not checked',
    patches: [{ file: 'ministore/lines.ts', find: 'const damage = isCleanBlock(block) ? ', by: 'const damage = block.length > 0 ? ' }],
    finding: /^bytes: nothing from the first unclean line on: Error: bytes\(\) gave /,
  },
  {
    name: 'bytes: the header is given',
    patches: [
      {
        file: 'ministore/segment-reader.ts',
        find: 'const lines = isFirst ? block.subarray(this.segment.header.bytes) : block',
        by: 'const lines = block',
      },
    ],
    finding: /^bytes: whole lines without headers, and no torn tail: Error: bytes\(\) gave "\/\/ MINISTORE/,
  },
  {
    name: 'bytes: a torn line is given',
    patches: [
      {
        file: 'ministore/segment-reader.ts',
        find: 'if (isCleanLine(block.subarray(lastLine, -1))) return block',
        by: 'if (block.length > 0) return block',
      },
    ],
    finding: /^bytes: whole lines without headers, and no torn tail: Error: bytes\(\) gave .*CORRUPT/,
  },
  {
    name: 'bytes: lines count as covered by a checksum that is not compared',
    patches: [
      {
        file: 'ministore/cursor.ts',
        find: 'const isCompared = next?.header.previousCrc32 !== undefined && next.firstSequence <= to',
        by: 'const isCompared = next?.header.previousCrc32 !== undefined',
      },
      {
        file: 'ministore/cursor.ts',
        find: 'if (reader.nextSequence > to && reader.bytes >= this.#aheadOf(reader).covered) this.#isDone = true',
        by: 'if (reader.nextSequence > to) this.#isDone = true',
      },
    ],
    finding: /^bytes: a changed letter is reported at the end of its segment, and never later: Error: bytes\(\) gave "\\"one\\"\\n\\"\\nwo\\"\\n", expected/,
  },
  {
    name: 'bytes: a range ends with its last number, before the checksum',
    patches: [
      {
        file: 'ministore/cursor.ts',
        find: 'if (reader.nextSequence > to && reader.bytes >= this.#aheadOf(reader).covered) this.#isDone = true',
        by: 'if (reader.nextSequence > to) this.#isDone = true',
      },
    ],
    finding: /^bytes: a changed letter is reported at the end of its segment, and never later: Error: bytes\(\) gave /,
  },
  {
    name: 'bytes: a chunk is a part of the buffer that is filled again',
    patches: [{ file: 'ministore/lines.ts', find: 'batch.records.push(new Uint8Array(good))', by: 'batch.records.push(good)' }],
    finding: /^bytes: chunks stay as they were given: /,
  },
]
