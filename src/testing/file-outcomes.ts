import type { Bytes } from './bytes.ts'
import { applyFileChange, type Fate, type FileChange, type FileNode } from './file-node.ts'
import { createRandom } from './random.ts'
import { applyTear, type Tear, tearsOf, type TornVariant } from './torn-write.ts'

/**
 * How far the changes of one fate got before the crash: the first `kept` wholly, the next one torn or not at
 * all.
 */
interface Extent {
  readonly kept: number
  readonly tear?: Tear
}

/** Gives contents numbers, the same number to the same bytes. */
export class ContentNumbers {
  readonly #known = new Map<string, number>()

  /** Looks at the bytes from `from` on; those before must be the same in all contents that are compared. */
  numberOf(content: Bytes, from: number): number {
    // latin1 keeps every byte apart, so equal text means equal bytes.
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
 * Changes lost to a failed sync and changes still pending each keep a prefix of their own, settled ones are
 * always kept, all in the order they were made.
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
      /** Where to take numbers from; without it they tell apart only the outcomes of this file. */
      readonly numbers: ContentNumbers | undefined
    },
  ) {
    this.#file = file
    this.#seed = options.seed
    this.#numbers = options.numbers ?? new ContentNumbers()
    // What is before every change need not be compared, which makes a write at the end of a long file cheap.
    const starts = options.numbers === undefined ? file.changes.map(({ position }) => position) : [0]
    this.#comparedFrom = Math.min(file.durable.length, ...starts)
    this.#lost = extentsOf(file, 'lost', options.tornVariants)
    this.#pending = extentsOf(file, 'pending', options.tornVariants)
  }

  /**
   * How many there are, some of them perhaps equal. 0 is the one with the least, the last one the one with
   * all.
   */
  get count(): number {
    return this.#lost.length * this.#pending.length
  }

  /** One outcome, made when first asked for. The caller must fork the content. */
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
        applyFileChange(content, change)
        continue
      }
      const { kept, tear } = extents[change.fate]
      const ordinal = seen[change.fate]++
      if (ordinal < kept) applyFileChange(content, change)
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
  for (const { fate: actual, bytes, position } of file.changes) {
    if (actual !== fate) continue
    const tears = bytes === undefined ? [] : tearsOf(bytes, position, variants)
    for (const tear of tears) extents.push({ kept, tear })
    kept += 1
    extents.push({ kept })
  }
  return extents
}
