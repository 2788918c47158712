import type { SegmentInfo } from '../../src/index.ts'
import type { Limits } from './model-commands.ts'

/** What must be seen of a segment. */
export type PlainSegment = Pick<SegmentInfo, 'firstSequence' | 'lastSequence' | 'isSealed' | 'bytes'>

/**
 * The model: a plain array of what was acknowledged, and where its segments begin by the rules of rotation and
 * retention, written down a second time and without a disk.
 */
export class PlainJournal {
  /** The JSON of every record that ever was, deleted ones too: record 1 first. */
  readonly texts: string[]
  /** The sequence number with which each segment begins, oldest first; the last one is active. */
  starts: number[]
  limits: Limits

  constructor(limits: Limits, texts: readonly string[] = [], starts: readonly number[] = [1]) {
    this.limits = limits
    this.texts = [...texts]
    this.starts = [...starts]
  }

  /** One that knows the same and goes on alone. */
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

  /** The JSON of the records from `from` to `to`, as far as they are there. */
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
    // An empty segment is full for nothing: there is none of two names that begin with the same record.
    if (this.starts.at(-1) === this.last + 1) return
    this.starts.push(this.last + 1)
    const { maxSegments = Infinity } = this.limits
    this.starts = this.starts.slice(Math.max(0, this.starts.length - maxSegments))
  }

  truncateBefore(sequence: number): void {
    while ((this.starts[1] ?? Infinity) <= sequence) this.starts.shift()
  }

  #bytes(first: number, last: number): number {
    // Each header but the first names the checksum of the segment before.
    const header = `// MINISTORE JOURNAL v0.2.0 seq=${first}${first === 1 ? '' : ' prev=00000000'}`
    return bytesOf([header, ...this.texts.slice(first - 1, last)])
  }
}

function bytesOf(lines: readonly string[]): number {
  return lines.reduce((bytes, line) => bytes + Buffer.byteLength(line) + 1, 0)
}
