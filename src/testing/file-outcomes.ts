import type { Bytes } from './bytes.ts'
import type { Fate, FileChange, FileNode } from './nodes.ts'
import { createRandom, type Random } from './random.ts'

/**
 * How far the changes of one fate got before the crash. The first `kept` changes survived whole.
 * The next one is torn, or missing if `tear` is absent.
 */
interface Extent {
  readonly kept: number
  readonly tear?: Tear
}

/** Assigns numbers to contents: equal bytes get the same number. */
export class ContentNumbers {
  readonly #known = new Map<string, number>()

  /**
   * Compares the bytes from `from` on. The bytes before it must be equal in all compared contents.
   */
  numberOf(content: Bytes, from: number): number {
    // latin1 maps every byte to its own character, so equal text means equal bytes.
    const text = content.view().toString('latin1', from)
    const known = this.#known.get(text)
    if (known !== undefined) return known
    this.#known.set(text, this.#known.size)
    return this.#known.size - 1
  }
}

/**
 * Every content that a crash may leave of one file, from the fewest changes kept to all of them.
 *
 * Settled changes are always kept. Changes lost to a failed sync keep a prefix of their own, and so
 * do pending changes. All are applied in the order they were made.
 */
export class FileOutcomes {
  readonly #file: FileNode
  readonly #seed: number
  readonly #numbers: ContentNumbers
  readonly #comparedFrom: number
  readonly #lost: readonly Extent[]
  readonly #pending: readonly Extent[]
  readonly #made = new Map<number, { content: Bytes; number: number }>()

  constructor(
    file: FileNode,
    options: {
      readonly seed: number
      readonly tornVariants: readonly TornVariant[]
      /**
       * The source of numbers. If undefined, numbers distinguish only the outcomes of this file.
       */
      readonly numbers: ContentNumbers | undefined
    },
  ) {
    this.#file = file
    this.#seed = options.seed
    this.#numbers = options.numbers ?? new ContentNumbers()
    // Bytes before all changes need no comparison, which makes a write at the end of a long file
    // cheap.
    const starts = options.numbers === undefined ? file.changes.map(({ position }) => position) : [0]
    this.#comparedFrom = Math.min(file.durable.length, ...starts)
    this.#lost = extentsOf(file, 'lost', options.tornVariants)
    this.#pending = extentsOf(file, 'pending', options.tornVariants)
  }

  /**
   * The number of outcomes, some of them possibly equal. Outcome 0 keeps the least, and the last
   * outcome keeps everything.
   */
  get count(): number {
    return this.#lost.length * this.#pending.length
  }

  /** Returns one outcome, built at its first use. The caller must fork the content. */
  at(index: number): { content: Bytes; number: number } {
    const known = this.#made.get(index)
    if (known !== undefined) return known
    const lost = this.#lost[Math.floor(index / this.#pending.length)]
    const pending = this.#pending[index % this.#pending.length]
    if (lost === undefined || pending === undefined) throw new RangeError(`There is no outcome ${index}`)
    const content = this.#build({ lost, pending })
    const made = { content, number: this.#numbers.numberOf(content, this.#comparedFrom) }
    this.#made.set(index, made)
    return made
  }

  #build(extents: Record<'lost' | 'pending', Extent>): Bytes {
    const content = this.#file.durable.fork()
    const seen = { lost: 0, pending: 0 }
    for (const change of this.#file.changes) {
      if (change.fate === 'settled') {
        this.#file.apply(content, change)
        continue
      }
      const { kept, tear } = extents[change.fate]
      const ordinal = seen[change.fate]++
      if (ordinal < kept) this.#file.apply(content, change)
      else if (ordinal === kept && tear !== undefined) this.#tear(content, change, tear)
    }
    return content
  }

  #tear(content: Bytes, change: FileChange, tear: Tear): void {
    const { bytes, position } = change
    if (bytes === undefined) return
    const random = createRandom(this.#seed, this.#file.inode, position, bytes.length, tear.at)
    applyTear(content, { bytes, position }, { tear, random })
  }
}

function extentsOf(file: FileNode, fate: Fate, variants: readonly TornVariant[]): Extent[] {
  const extents: Extent[] = [{ kept: 0 }]
  let kept = 0
  let size = file.durable.length
  for (const { fate: actual, bytes, position } of file.changes) {
    const end = position + (bytes?.length ?? 0)
    const isInPlace = end <= size
    size = bytes === undefined ? end : Math.max(size, end)
    if (actual !== fate) continue
    const tears = bytes === undefined ? [] : tearsOf({ bytes, position, isInPlace }, variants)
    for (const tear of tears) extents.push({ kept, tear })
    kept += 1
    extents.push({ kept })
  }
  return extents
}

/**
 * How a crash tears the write that it interrupts:
 *
 * - `cut`: the first bytes arrived and the rest did not. A file that was growing ends where they
 *   end.
 * - `zeros`: the file has its full length, but from some point on the bytes never arrived and read
 *   as NUL.
 * - `head-lost`: the last bytes arrived. The first ones did not, and read as NUL.
 * - `garbage`: the file has its full length, but from some point on it holds bytes that were never
 *   written, such as earlier content of the disk block. These bytes never include a newline (0x0A),
 *   so a torn line has no end.
 * - `blocks`: of a write that lies within the file, any of its blocks of 512 bytes arrived, in any
 *   combination. Of another write, `zeros` and `head-lost` show what may arrive.
 * - `garbage-newline`: like `garbage`, but the last byte is a newline and there may be more of
 *   them. A line format cannot tell such a tail from a damaged line unless every line has a
 *   checksum.
 *
 * Bytes that never arrived read as the earlier content of the file at that position, or as NUL
 * beyond its earlier end. A byte that is overwritten with the same value keeps it. The exception is
 * `garbage`: a newline after a torn byte may turn into garbage.
 */
export type TornVariant = 'cut' | 'zeros' | 'head-lost' | 'garbage' | 'blocks' | 'garbage-newline'

export const tornVariants: readonly TornVariant[] = [
  'cut',
  'zeros',
  'head-lost',
  'garbage',
  'blocks',
  'garbage-newline',
]

/**
 * A torn write. `at` counts bytes from the beginning of the write; for `blocks` it is the number of a
 * combination.
 */
export interface Tear {
  readonly variant: TornVariant
  readonly at: number
}

const newline = 0x0a
const pageBytes = 4096
const blockBytes = 512

/** Returns the ways to tear a write that crash states try. */
export function tearsOf(
  write: Write & { /** Whether it lies within the file. */ readonly isInPlace: boolean },
  variants: readonly TornVariant[],
): Tear[] {
  const { bytes, position } = write
  const inside = cutPoints(bytes, position)
  const tears: Tear[] = []
  for (const variant of variants) {
    if (variant === 'blocks') {
      const count = write.isInPlace ? combinationsOf(write).length : 0
      for (let at = 0; at < count; at++) tears.push({ variant, at })
      continue
    }
    // A tear at 0 keeps the length of the write but none of its bytes. A `cut` at 0 would be no
    // write.
    const fromStart = variant === 'cut' || variant === 'head-lost' || bytes.length === 0 ? [] : [0]
    for (const at of [...fromStart, ...inside]) tears.push({ variant, at })
  }
  return tears
}

interface Write {
  readonly bytes: Uint8Array
  readonly position: number
}

/**
 * The combinations of blocks that crash states keep of a write: all of up to four blocks; of more, one
 * alone, all but one, and every other. None if the write lies in one block, which arrives whole.
 */
function combinationsOf({ bytes, position }: Write): Array<(block: number) => boolean> {
  const count = Math.ceil((position + bytes.length) / blockBytes) - Math.floor(position / blockBytes)
  if (count < 2) return []
  if (count <= 4) {
    return Array.from({ length: 2 ** count - 2 }, (_, index) => (block) => Math.floor((index + 1) / 2 ** block) % 2 === 1)
  }
  const some = [0, 1, count >> 1, count - 2, count - 1]
  return [
    ...some.map((only) => (block: number) => block === only),
    ...some.map((without) => (block: number) => block !== without),
    (block) => block % 2 === 0,
    (block) => block % 2 === 1,
  ]
}

export function applyTear(
  content: Bytes,
  write: Write,
  options: { readonly tear: Tear; readonly random: Random },
): void {
  const { bytes, position } = write
  const { variant, at } = options.tear
  if (variant === 'head-lost') {
    content.write(bytes.subarray(at), position + at)
    return
  }
  if (variant === 'blocks') {
    const first = Math.floor(position / blockBytes)
    const isKept = combinationsOf(write)[at] as (block: number) => boolean
    for (let from = 0, block = 0; from < bytes.length; block++) {
      const to = (first + block + 1) * blockBytes - position
      if (isKept(block)) content.write(bytes.subarray(from, to), position + from)
      from = to
    }
    return
  }
  content.write(bytes.subarray(0, at), position)
  if (variant === 'cut') return
  if (variant === 'zeros') content.extend(position + bytes.length)
  else content.write(unlessSame(content, { bytes, position }, options.tear, options.random), position + at)
}

/**
 * Returns garbage for the rest of a write. A byte that is overwritten with the same value cannot
 * tear, so it is kept.
 */
function unlessSame(
  content: Bytes,
  { bytes, position }: Write,
  { variant, at }: Tear,
  random: Random,
): Uint8Array {
  const torn = garbage(bytes.length - at, { variant, random })
  const before = content.view().subarray(position + at, position + bytes.length)
  let isTorn = false
  for (const [index, byte] of before.entries()) {
    const isSame = byte === bytes[at + index]
    // An older write may have left a line ending there without the beginning of its line. That
    // newline must not end a line of garbage.
    const isFalseEnd = isTorn && byte === newline && variant === 'garbage'
    if (isSame && !isFalseEnd) torn[index] = byte
    isTorn ||= !isSame
  }
  return torn
}

/**
 * Returns the offsets at which to tear a write: after the first byte; at a quarter, a half and
 * three quarters; before the last byte; before and after the first newline and the last two
 * newlines; at the first and the last page boundary. The offsets are sorted and all inside the
 * write.
 */
function cutPoints(bytes: Uint8Array, position: number): number[] {
  const { length } = bytes
  const points = [1, length >> 2, length >> 1, length - (length >> 2), length - 1]
  const first = bytes.indexOf(newline)
  const last = bytes.lastIndexOf(newline)
  const second = last <= 0 ? -1 : bytes.lastIndexOf(newline, last - 1)
  for (const at of [first, second, last]) if (at !== -1) points.push(at, at + 1)
  points.push(pageBytes - (position % pageBytes), length - ((position + length) % pageBytes))
  return [...new Set(points)].filter((at) => at > 0 && at < length).toSorted((a, b) => a - b)
}

function garbage(length: number, options: { variant: TornVariant; random: Random }): Uint8Array {
  const bytes = new Uint8Array(length)
  const withNewline = options.variant === 'garbage-newline'
  for (let i = 0; i < length; i += 1) {
    const byte = options.random.below(256)
    bytes[i] = byte === newline && !withNewline ? 0xff : byte
  }
  if (withNewline && length > 0) bytes[length - 1] = newline
  return bytes
}
