import { fields, integer } from '../options.ts'
import { Disk } from './disk.ts'
import { ContentNumbers, FileOutcomes, type TornVariant, tornVariants } from './file-outcomes.ts'
import { DirectoryNode, FileNode, type Node } from './nodes.ts'
import { createRandom, type Random } from './random.ts'

/** Options of `SimulatedFileSystem.crashStates`. */
export interface CrashOptions {
  /**
   * The seed of the sample and of the garbage: any whole number. The same seed gives the same
   * states.
   * @default 1
   */
  readonly seed?: number
  /**
   * The most states to return: a whole number of 1 or more, or `Infinity`. If all combinations of
   * choices number no more than this, every distinct state is returned. Otherwise the states are a
   * sample. Up to half of the limit goes to the corner cases: nothing or everything kept, each
   * prefix of the directory operations, each torn write alone. Random choices follow.
   * @default 1000
   */
  readonly limit?: number
  /**
   * How the crash may tear the write that it interrupts. With `[]`, each write is kept whole or not
   * at all.
   * @default ['cut', 'zeros', 'head-lost', 'garbage', 'blocks']
   */
  readonly tornVariants?: readonly TornVariant[]
}

const defaultVariants: readonly TornVariant[] = ['cut', 'zeros', 'head-lost', 'garbage', 'blocks']

/**
 * The unsettled changes that a crash keeps: the names that are left, and an outcome for each file.
 */
interface Choice {
  readonly tree: readonly Survivor[]
  readonly outcomes: ReadonlyMap<FileNode, number>
}

/** A name that exists after a crash. In a list, a directory comes before its entries. */
interface Survivor {
  readonly name: string
  /** The index of its directory in the list; -1 for the root. */
  readonly parent: number
  /** Absent for a directory. */
  readonly file: FileNode | undefined
}

/**
 * Returns the distinct disks that a crash of this disk may leave. Everything on them is durable.
 * The disk must not change until the iterator is finished.
 *
 * Invariant: settled changes are in every crash state. Of the other changes of a directory, any
 * subset may survive. Of a file's lost changes a prefix may survive, and of its pending changes
 * another prefix.
 *
 * @throws {TypeError | RangeError} if an option is invalid, at the time of the call.
 */
export function crashDisks(disk: Disk, options: CrashOptions): Generator<Disk, void, undefined> {
  return distinctDisks(disk, checkedOptions(options))
}

interface CheckedOptions {
  readonly seed: number
  readonly limit: number
  readonly variants: readonly TornVariant[]
}

function* distinctDisks(disk: Disk, options: CheckedOptions): Generator<Disk, void, undefined> {
  const { seed, limit, variants } = options
  const plan = new CrashPlan(disk, { seed, variants })
  const seen = new Set<string>()
  for (const choice of plan.choices(limit, createRandom(seed))) {
    const key = plan.keyOf(choice)
    if (seen.has(key)) continue
    seen.add(key)
    yield plan.build(choice)
    if (seen.size >= limit) return
  }
}

/** Returns the disk after a crash that kept every change, or only the settled ones. */
export function crashDisk(disk: Disk, keep: 'all' | 'none'): Disk {
  const plan = new CrashPlan(disk, { seed: 0, variants: [] })
  return plan.build(plan.corner(plan.treeOf(() => keep === 'all'), keep))
}

class CrashPlan {
  readonly #root: DirectoryNode
  readonly #bits = new Map<DirectoryNode, number>()
  readonly #options: { readonly seed: number; readonly tornVariants: readonly TornVariant[] }
  /**
   * Absent if every name leads to the same file in every state, so that files need no comparison.
   */
  readonly #numbers: ContentNumbers | undefined
  readonly #outcomes = new Map<FileNode, FileOutcomes>()
  #bitCount = 0

  constructor(disk: Disk, options: { readonly seed: number; readonly variants: readonly TornVariant[] }) {
    this.#root = disk.root
    this.#options = { seed: options.seed, tornVariants: options.variants }
    this.#number(disk.root)
    this.#numbers = this.#bitCount === 0 ? undefined : new ContentNumbers()
  }

  /** Numbers every directory change that a crash may skip, counted from 0. */
  #number(directory: DirectoryNode): void {
    if (this.#bits.has(directory)) return
    this.#bits.set(directory, this.#bitCount)
    this.#bitCount += directory.changes.filter(({ fate }) => fate !== 'settled').length
    for (const node of directory.durable.values()) if (node instanceof DirectoryNode) this.#number(node)
    for (const { node } of directory.changes) if (node instanceof DirectoryNode) this.#number(node)
  }

  /** Returns the names that are left if only the directory changes selected by `isKept` survive. */
  treeOf(isKept: (bit: number) => boolean): Survivor[] {
    const tree: Survivor[] = []
    const visit = (directory: DirectoryNode, parent: number): void => {
      for (const [name, node] of this.#namesIn(directory, isKept)) {
        tree.push({ name, parent, file: node instanceof FileNode ? node : undefined })
        if (node instanceof DirectoryNode) visit(node, tree.length - 1)
      }
    }
    visit(this.#root, -1)
    return tree
  }

  #namesIn(directory: DirectoryNode, isKept: (bit: number) => boolean): Array<[string, Node]> {
    let names = directory.durable
    if (directory.changes.length > 0) {
      names = new Map(names)
      let bit = this.#bits.get(directory) ?? 0
      for (const change of directory.changes) {
        if (change.fate === 'settled' || isKept(bit++)) directory.apply(names, change)
      }
    }
    return [...names].toSorted(([a], [b]) => (a < b ? -1 : 1))
  }

  #outcomesOf(file: FileNode): FileOutcomes {
    let outcomes = this.#outcomes.get(file)
    if (outcomes === undefined) {
      outcomes = new FileOutcomes(file, { ...this.#options, numbers: this.#numbers })
      this.#outcomes.set(file, outcomes)
    }
    return outcomes
  }

  /** Returns the choice that keeps everything or nothing of every file. */
  corner(tree: readonly Survivor[], keep: 'all' | 'none'): Choice {
    const outcomes = new Map<FileNode, number>()
    for (const file of filesOf(tree)) {
      outcomes.set(file, keep === 'all' ? this.#outcomesOf(file).count - 1 : 0)
    }
    return { tree, outcomes }
  }

  *choices(limit: number, random: Random): Generator<Choice, void, undefined> {
    if (this.#isWithin(limit)) {
      for (const tree of this.#everyTree()) yield* this.#everyOutcome(tree)
      return
    }
    let corners = Math.ceil(limit / 2)
    for (const choice of this.#corners()) {
      if (corners-- <= 0) break
      yield choice
    }
    // Some random choices repeat an earlier state, so up to four times the limit are tried.
    for (let tried = 0; tried < 4 * limit; tried += 1) {
      const kept = Array.from({ length: this.#bitCount }, () => random.below(2) === 1)
      const tree = this.treeOf((bit) => kept[bit] === true)
      const outcomes = new Map<FileNode, number>()
      for (const file of filesOf(tree)) outcomes.set(file, random.below(this.#outcomesOf(file).count))
      yield { tree, outcomes }
    }
  }

  /** Whether the number of combinations of names and file contents is within the limit. */
  #isWithin(limit: number): boolean {
    if (limit === Infinity) return true
    if (2 ** this.#bitCount > limit) return false
    let total = 0
    for (const tree of this.#everyTree()) {
      total += filesOf(tree).reduce((product, file) => product * this.#outcomesOf(file).count, 1)
      if (total > limit) return false
    }
    return true
  }

  *#everyTree(): Generator<Survivor[], void, undefined> {
    for (let mask = 0; mask < 2 ** this.#bitCount; mask += 1) {
      yield this.treeOf((bit) => Math.floor(mask / 2 ** bit) % 2 === 1)
    }
  }

  *#everyOutcome(tree: readonly Survivor[]): Generator<Choice, void, undefined> {
    const files = filesOf(tree)
    const counts = files.map((file) => this.#outcomesOf(file).count)
    const total = counts.reduce((product, count) => product * count, 1)
    for (let index = 0; index < total; index += 1) {
      const outcomes = new Map<FileNode, number>()
      let rest = index
      files.forEach((file, i) => {
        const count = counts[i] ?? 1
        outcomes.set(file, rest % count)
        rest = Math.floor(rest / count)
      })
      yield { tree, outcomes }
    }
  }

  *#corners(): Generator<Choice, void, undefined> {
    for (const kept of [0, this.#bitCount, ...Array(this.#bitCount).keys()]) {
      const tree = this.treeOf((bit) => bit < kept)
      yield this.corner(tree, 'none')
      yield this.corner(tree, 'all')
    }
    const whole = this.corner(this.treeOf(() => true), 'all')
    for (const file of whole.outcomes.keys()) {
      for (let index = 0; index < this.#outcomesOf(file).count; index += 1) {
        yield { tree: whole.tree, outcomes: new Map(whole.outcomes).set(file, index) }
      }
    }
  }

  /** Returns a text that is equal for equal states. Inode numbers are not compared. */
  keyOf({ tree, outcomes }: Choice): string {
    const firstNames = new Map<FileNode, number>()
    let key = ''
    tree.forEach(({ name, parent, file }, index) => {
      key += `${parent}/${name}/`
      if (file === undefined) {
        key += 'd/'
        return
      }
      // Two names of one file are a different state from two files with the same bytes.
      const first = firstNames.get(file)
      if (first === undefined) {
        firstNames.set(file, index)
        key += `${this.#outcomesOf(file).at(outcomes.get(file) ?? 0).number}/`
      } else key += `=${first}/`
    })
    return key
  }

  build({ tree, outcomes }: Choice): Disk {
    const disk = new Disk()
    const made: Node[] = []
    const copies = new Map<FileNode, FileNode>()
    for (const { name, parent, file } of tree) {
      const directory = parent === -1 ? disk.root : made[parent]
      if (!(directory instanceof DirectoryNode)) throw new Error('A directory must come before what is in it')
      let node: Node | undefined = file === undefined ? disk.newDirectory() : copies.get(file)
      if (node === undefined && file !== undefined) {
        node = disk.newFile(this.#outcomesOf(file).at(outcomes.get(file) ?? 0).content.fork(), file.access)
        copies.set(file, node)
      }
      if (node !== undefined) directory.record({ puts: name, node, fate: 'settled' })
      made.push(node ?? disk.root)
    }
    return disk
  }
}

function filesOf(tree: readonly Survivor[]): FileNode[] {
  const files = new Set<FileNode>()
  for (const { file } of tree) if (file !== undefined) files.add(file)
  return [...files]
}

function checkedOptions(options: CrashOptions): CheckedOptions {
  const { seed, limit } = fields(options, ['seed', 'limit', 'tornVariants'])
  const { tornVariants: variants = defaultVariants } = options
  const unknown = variants.find((variant) => !tornVariants.includes(variant))
  if (unknown !== undefined) throw new TypeError(`Unknown torn variant \`${unknown as string}\``)
  return {
    seed: integer('seed', seed, { default: 1, min: Number.MIN_SAFE_INTEGER }),
    limit: integer('limit', limit, { default: 1000, orInfinity: true }),
    variants,
  }
}
