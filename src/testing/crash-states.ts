import { applyDirectoryChange, DirectoryNode, type Node } from './directory-node.ts'
import { Disk } from './disk.ts'
import { FileNode } from './file-node.ts'
import { ContentNumbers, FileOutcomes, type TornVariant, tornVariants } from './file-outcomes.ts'
import { createRandom, type Random } from './random.ts'

/** Options of `SimulatedFileSystem.crashStates`. */
export interface CrashOptions {
  /** Chooses the sample and the garbage: any whole number. The same seed gives the same states. @default 1 */
  readonly seed?: number
  /**
   * How many states to give at most, a whole number of 1 or more or `Infinity`. When the choices multiply to
   * no more than this, every distinct state is given; otherwise a sample: first, in half of the limit, the
   * corners (nothing or everything kept, each prefix of the directory operations, each torn write alone),
   * then random choices.
   * @default 1000
   */
  readonly limit?: number
  /**
   * How the write that the crash interrupts may be torn; `[]` leaves whole writes only.
   * @default ['cut', 'zeros', 'head-lost', 'garbage']
   */
  readonly tornVariants?: readonly TornVariant[]
}

const defaultVariants: readonly TornVariant[] = ['cut', 'zeros', 'head-lost', 'garbage']

/**
 * What of the unsettled changes a crash keeps: a flag for each directory change, an outcome for each file.
 */
interface Choice {
  readonly tree: readonly Survivor[]
  readonly outcomes: ReadonlyMap<FileNode, number>
}

/** A name that is there after a crash; a directory comes before what is in it. */
interface Survivor {
  readonly name: string
  /** Where in the list its directory is; -1 for the root. */
  readonly parent: number
  /** Absent for a directory. */
  readonly file: FileNode | undefined
}

/**
 * Gives the distinct disks that a crash of this disk may leave, everything on them durable. The disk must not
 * change while they are taken. Throws at once for options that make no sense.
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

/** The disk after a crash that kept every change, or none that is not settled. */
export function crashDisk(disk: Disk, keep: 'all' | 'none'): Disk {
  const plan = new CrashPlan(disk, { seed: 0, variants: [] })
  return plan.build(plan.corner(plan.treeOf(() => keep === 'all'), keep))
}

class CrashPlan {
  readonly #root: DirectoryNode
  readonly #bits = new Map<DirectoryNode, number>()
  readonly #options: { readonly seed: number; readonly tornVariants: readonly TornVariant[] }
  /** Absent when every name leads to the same file in every state, so that files need no comparison. */
  readonly #numbers: ContentNumbers | undefined
  readonly #outcomes = new Map<FileNode, FileOutcomes>()
  #bitCount = 0

  constructor(disk: Disk, options: { readonly seed: number; readonly variants: readonly TornVariant[] }) {
    this.#root = disk.root
    this.#options = { seed: options.seed, tornVariants: options.variants }
    this.#number(disk.root)
    this.#numbers = this.#bitCount === 0 ? undefined : new ContentNumbers()
  }

  /** Gives every directory change that a crash may skip a number of its own. */
  #number(directory: DirectoryNode): void {
    if (this.#bits.has(directory)) return
    this.#bits.set(directory, this.#bitCount)
    this.#bitCount += directory.changes.filter(({ fate }) => fate !== 'settled').length
    for (const node of directory.durable.values()) if (node instanceof DirectoryNode) this.#number(node)
    for (const { node } of directory.changes) if (node instanceof DirectoryNode) this.#number(node)
  }

  /** The names left when the directory changes for which `isKept` says so survive. */
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
        if (change.fate === 'settled' || isKept(bit++)) applyDirectoryChange(names, change)
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

  /** The choice that keeps all or nothing of every file. */
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
    // Some random choices repeat an earlier state, so a few more than the limit are tried.
    for (let tried = 0; tried < 4 * limit; tried += 1) {
      const kept = Array.from({ length: this.#bitCount }, () => random.below(2) === 1)
      const tree = this.treeOf((bit) => kept[bit] === true)
      const outcomes = new Map<FileNode, number>()
      for (const file of filesOf(tree)) outcomes.set(file, random.below(this.#outcomesOf(file).count))
      yield { tree, outcomes }
    }
  }

  /** Whether the choices of names and of the contents of their files multiply to no more than the limit. */
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

  /** The same text for the same state, apart from inode numbers. */
  keyOf({ tree, outcomes }: Choice): string {
    const firstNames = new Map<FileNode, number>()
    let key = ''
    tree.forEach(({ name, parent, file }, index) => {
      key += `${parent}/${name}/`
      if (file === undefined) {
        key += 'd/'
        return
      }
      // Two names of one file are another state than two files with the same bytes.
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
  const { seed = 1, limit = 1000, tornVariants: variants = defaultVariants, ...rest } = options
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) throw new TypeError(`Unknown option \`${unknown}\` of crashStates`)
  if (!Number.isSafeInteger(seed)) throw new TypeError(`Expected \`seed\` to be a whole number, got ${seed}`)
  if (limit !== Infinity && !(Number.isSafeInteger(limit) && limit >= 1)) {
    throw new TypeError(`Expected \`limit\` to be a whole number of 1 or more or Infinity, got ${limit}`)
  }
  for (const variant of variants) {
    if (!tornVariants.includes(variant)) throw new TypeError(`Unknown torn variant \`${variant as string}\``)
  }
  return { seed, limit, variants }
}
