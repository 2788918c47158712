import type { SegmentInfo } from '../../../src/index.ts'
import type { Limits } from './model-commands.ts'

/** The checked fields of a segment. */
export type PlainSegment = Pick<SegmentInfo, 'firstSequence' | 'lastSequence' | 'isSealed' | 'bytes'>

/**
 * The model: a plain array of what was acknowledged, and where its segments begin. It repeats the
 * rules of rotation and retention without a disk.
 */
export class PlainJournal {
  /** The JSON of every record ever acknowledged, including deleted ones, from record 1 on. */
  readonly texts: string[]
  /**
   * The sequence number with which each segment begins, oldest first. The last segment is active.
   */
  starts: number[]
  limits: Limits

  constructor(limits: Limits, texts: readonly string[] = [], starts: readonly number[] = [1]) {
    this.limits = limits
    this.texts = [...texts]
    this.starts = [...starts]
  }

  /** Returns an independent journal with the same content. */
  fork(): PlainJournal {
    return new PlainJournal(this.limits, this.texts, this.starts)
  }

  get first(): number {
    return this.starts[0] as number
  }

  get last(): number {
    return this.texts.length
  }

  get segments(): PlainSegment[] {
    return this.starts.map((firstSequence, index) => {
      const lastSequence = (this.starts[index + 1] ?? this.last + 1) - 1
      const isSealed = index < this.starts.length - 1
      return { firstSequence, lastSequence, isSealed, bytes: this.#bytes(firstSequence, lastSequence) }
    })
  }

  /** The JSON of the records from `from` to `to` that are still there. */
  slice(from: number, to: number): string[] {
    return this.texts.slice(Math.max(from, this.first) - 1, Math.max(to, 0))
  }

  append(texts: readonly string[]): void {
    const active = this.starts.at(-1) as number
    const { maxBytesPerSegment = Infinity } = this.limits
    const bytes = this.#bytes(active, this.last) + bytesOf(texts)
    if (texts.length > 0 && bytes > maxBytesPerSegment) this.rotate()
    this.texts.push(...texts)
  }

  rotate(): void {
    // An empty segment is never rotated: otherwise two segments would begin with the same record.
    if (this.starts.at(-1) === this.last + 1) return
    this.starts.push(this.last + 1)
    const { maxSegments = Infinity } = this.limits
    this.starts = this.starts.slice(Math.max(0, this.starts.length - maxSegments))
  }

  truncateBefore(sequence: number): void {
    while ((this.starts[1] ?? Infinity) <= sequence) this.starts.shift()
  }

  #bytes(first: number, last: number): number {
    // Each header except the first names the checksum of the previous segment.
    const header = `// MINISTORE JOURNAL v0.3.0 seq=${first} id=5c1e9a70b2f4d833${first === 1 ? '' : ' prev=00000000'}`
    return bytesOf([header, ...this.texts.slice(first - 1, last)])
  }
}

function bytesOf(lines: readonly string[]): number {
  return lines.reduce((bytes, line) => bytes + Buffer.byteLength(line) + 1, 0)
}
