/**
 * The order in which a journal's writer may call the file system, independent of what a crash makes
 * of it.
 *
 * The rules keep their own picture of what is visible and what is durable, made only from the calls
 * and their results. A mistake in the simulated file system, which every other crash test relies
 * on, therefore cannot hide here.
 *
 * Each method is called before an operation and returns a function to call once the operation has
 * succeeded. Breaches are collected, since an error thrown inside an operation would look like an
 * error of the disk.
 */
export class OrderRules {
  readonly breaches: string[] = []
  readonly #path: string
  readonly #visible = new Map<string, FilePicture>()
  readonly #durable = new Map<string, FilePicture>()
  #pending: NameChange[] = []
  /** Files of which a sync failed in this session. */
  readonly #failed = new Set<FilePicture>()

  /** @param path the path of the journal. */
  constructor(path: string) {
    this.#path = path
  }

  /**
   * Adds a file that exists before the first operation. Content that is not durable counts as
   * pending. The bytes behind a name that is not durable count as durable, since the run that made
   * the name was held to that rule.
   */
  exists(path: string, visible: Uint8Array | undefined, durable: Uint8Array | undefined): void {
    const former = durable === undefined ? undefined : new FilePicture(durable)
    if (former !== undefined) this.#durable.set(path, former)
    if (visible === undefined) {
      this.#pending.push({ removes: path })
      return
    }
    if (former !== undefined && durable !== undefined && isSameFile(visible, durable)) {
      former.replace(visible)
      this.#visible.set(path, former)
      return
    }
    const file = new FilePicture(visible)
    this.#visible.set(path, file)
    this.#pending.push({ puts: path, file })
  }

  /** A store is about to open the journal. It may retry what an earlier store failed to do. */
  begin(): void {
    this.#failed.clear()
    for (const file of this.#visible.values()) file.bytesAtOpen = file.visible.length
  }

  create(path: string): () => void {
    return () => this.#change({ puts: path, file: new FilePicture() })
  }

  /** A directory is a name like any other, without bytes. */
  makeDirectory(path: string): () => void {
    return this.create(path)
  }

  write(path: string, position: number): (bytes: Uint8Array) => void {
    if (this.#isSealed(path)) this.#breach(`the sealed segment ${path} is written to`)
    return (bytes) => {
      const file = this.#file(path)
      const before = file.durable.subarray(position, position + bytes.length)
      // Padding may be overwritten: no record has a NUL byte.
      if (before.some((byte, at) => byte !== 0 && byte !== bytes[at])) this.#breach(`durable bytes of ${path} are overwritten`)
      const isCut = position >= file.visible.length
      const isInPadding = (isCut ? before : file.visible.subarray(position, position + bytes.length)).includes(0)
      if (path === this.#path && isInPadding && bytes.indexOf(newline) < bytes.lastIndexOf(newline)) {
        this.#breach(`several lines are written into the padding of ${path}`)
      }
      file.write({ position, bytes: Buffer.from(bytes) })
    }
  }

  truncate(path: string, length: number): () => void {
    const file = this.#file(path)
    if (this.#isSealed(path)) this.#breach(`the sealed segment ${path} is cut`)
    if (path === this.#path) {
      const cut = withoutPadding(file.visible.subarray(length))
      if (length < file.bytesAtOpen && cut.length > 0 && !this.#isEvidence(cut)) {
        this.#breach(`bytes that were there at open are cut from ${path} before they are durable as evidence`)
      }
      if (length < this.#sealedBytes()) this.#breach(`${path} is cut to less than its seal covers`)
    }
    return () => {
      file.bytesAtOpen = Math.min(file.bytesAtOpen, length)
      file.write({ length })
    }
  }

  /** Returns a function that takes whether the sync succeeded. */
  sync(path: string): (isDone: boolean) => void {
    const file = this.#file(path)
    if (this.#failed.has(file)) this.#breach(`${path} is synced again after a sync of it failed`)
    return (isDone) => {
      if (isDone) file.settle()
      else {
        this.#failed.add(file)
        file.drop()
      }
    }
  }

  /** Covers the changes made before the call, and none made while it is in progress. */
  syncDirectory(directory: string): () => void {
    const covered = new Set(this.#pending.filter(({ puts, removes }) => isIn(directory, puts ?? removes)))
    return () => {
      for (const change of this.#pending) if (covered.has(change)) apply(this.#durable, change)
      this.#pending = this.#pending.filter((change) => !covered.has(change))
    }
  }

  unlink(path: string): () => void {
    if (path === this.#path) this.#breach(`the active segment ${path} is removed`)
    if (/\.torn-[\d-]+$/.test(path)) this.#breach(`the evidence ${path} is removed`)
    if (this.#isSealed(path)) this.#checkDeletion(path)
    return () => this.#change({ removes: path })
  }

  rename(path: string, to: string): () => void {
    const file = this.#file(path)
    const replaced = this.#visible.get(to)
    if (!file.isDurable) this.#breach(`${path} is renamed to ${to} before its bytes are durable`)
    if (this.#isSegment(to) && file.visible.at(-1) === 0) this.#breach(`${path} is renamed to ${to} with its padding`)
    if (replaced !== undefined && to.includes('.torn-')) this.#breach(`the evidence ${to} is replaced`)
    if (replaced !== undefined && this.#isSegment(to)) this.#checkReplacement(to, replaced, file)
    if (this.#isSegment(to) && this.#hasPendingSegments()) {
      this.#breach(`${path} is renamed to ${to} before the change of names before it is durable`)
    }
    if (this.#isSealed(to) && (this.#visible.has(this.#sealPath) || this.#durable.has(this.#sealPath))) {
      this.#breach(`${path} is renamed to ${to} while a seal may still speak of it`)
    }
    if (to === this.#sealPath) this.#checkSeal(file)
    return () => this.#change({ removes: path, puts: to, file })
  }

  /**
   * The store has acknowledged that these lines, from this sequence number on, are on stable
   * storage.
   */
  acknowledge(first: number, lines: readonly string[]): void {
    for (const [index, line] of lines.entries()) {
      const sequence = first + index
      const [path, file] = this.#segmentOf(sequence) ?? []
      if (path === undefined || file === undefined || file.lineOf(sequence, 'visible') !== line) {
        this.#breach(`record ${sequence} is acknowledged and not in the journal`)
      } else if (file.lineOf(sequence, 'durable') !== line) {
        this.#breach(`record ${sequence} is acknowledged before its bytes are synced`)
      } else this.#checkNames(path, file, `record ${sequence} is acknowledged`)
    }
  }

  /** An open, a rotation or a deletion has resolved while no other operation is in progress. */
  settled(what: string): void {
    if (this.#hasPendingSegments()) this.#breach(`${what} has resolved before its changes of names are durable`)
    const active = this.#visible.get(this.#path)
    if (active === undefined) return
    if (!active.isDurable) this.#breach(`${what} has resolved before the bytes of ${this.#path} are durable`)
    this.#checkNames(this.#path, active, `${what} has resolved`)
  }

  get #sealPath(): string {
    return `${this.#path}.seal`
  }

  #checkNames(path: string, file: FilePicture, what: string): void {
    // Any durable name suffices: a rotation may have started since.
    if (![...this.#durable.values()].includes(file)) {
      this.#breach(`${what} before the directory of ${path} is synced`)
    }
    for (const [directory, node] of this.#visible) {
      if (!path.startsWith(`${directory}/`) || this.#durable.get(directory) === node) continue
      this.#breach(`${what} before the name of the directory ${directory} is durable`)
    }
  }

  /** Only the active segment may be replaced, while it has no record and no seal may speak of it. */
  #checkReplacement(path: string, replaced: FilePicture, file: FilePicture): void {
    const isEmpty = [replaced.visible, replaced.durable].every((bytes) => isHeaderOnly(bytes))
    if (path !== this.#path || !isEmpty || !file.hasDurableHeader) this.#breach(`the segment ${path} is replaced`)
    if (replaced.hasHeader && (this.#visible.has(this.#sealPath) || this.#durable.has(this.#sealPath))) {
      this.#breach(`the header of ${path} is replaced while a seal may still speak of it`)
    }
  }

  #checkDeletion(path: string): void {
    if (this.#hasPendingSegments()) this.#breach(`${path} is removed before the change of names before it is durable`)
    const older = [...this.#visible.keys()].find((other) => this.#numberOf(other) < this.#numberOf(path))
    if (older !== undefined) this.#breach(`${path} is removed before the older ${older}`)
    const active = this.#visible.get(this.#path)
    const isFollowed = active !== undefined && this.#durable.get(this.#path) === active && active.hasDurableHeader
    if (!isFollowed) this.#breach(`${path} is removed before the active segment is durable`)
  }

  #checkSeal(seal: FilePicture): void {
    const covers = sealBytes(seal.visible)
    const active = this.#visible.get(this.#path)
    const isCovered = active !== undefined && this.#durable.get(this.#path) === active && active.durable.length >= covers
    if (!isCovered) this.#breach(`the seal says ${covers} bytes before they are durable`)
  }

  /** How many bytes of the active segment a seal covers; 0 without a seal. */
  #sealedBytes(): number {
    const seals = [this.#visible.get(this.#sealPath), this.#durable.get(this.#sealPath)]
    return Math.max(0, ...seals.map((seal) => (seal === undefined ? 0 : sealBytes(seal.durable))))
  }

  #isEvidence(bytes: Buffer): boolean {
    return [...this.#durable].some(
      ([path, file]) => /\.torn-[\d-]+$/.test(path) && this.#visible.get(path) === file && file.durable.equals(bytes),
    )
  }

  /** The segment that must hold the record: the last one that begins at or before it. */
  #segmentOf(sequence: number): [string, FilePicture] | undefined {
    let found: [string, FilePicture] | undefined
    for (const [path, file] of this.#visible) {
      if (!this.#isSegment(path) || !(file.firstSequence <= sequence)) continue
      if (found === undefined || found[1].firstSequence <= file.firstSequence) found = [path, file]
    }
    return found
  }

  #hasPendingSegments(): boolean {
    return this.#pending.some(({ puts = '', removes = '' }) => this.#isSegment(puts) || this.#isSegment(removes))
  }

  #isSegment(path: string): boolean {
    return path === this.#path || this.#isSealed(path)
  }

  #isSealed(path: string): boolean {
    return Number.isInteger(this.#numberOf(path))
  }

  /**
   * The number of a sealed segment, or NaN for any other file. NaN compares as neither less nor
   * more.
   */
  #numberOf(path: string): number {
    const ending = path.startsWith(`${this.#path}.`) ? path.slice(this.#path.length + 1) : ''
    return /^\d+$/.test(ending) ? Number(ending) : Number.NaN
  }

  #file(path: string): FilePicture {
    const file = this.#visible.get(path)
    if (file !== undefined) return file
    this.#breach(`${path} is used and was never made`)
    return new FilePicture()
  }

  #change(change: NameChange): void {
    apply(this.#visible, change)
    this.#pending.push(change)
  }

  #breach(text: string): void {
    this.breaches.push(text)
  }
}

const newline = 0x0a

/** NUL bytes at the end are no evidence of anything: a writer may have written them ahead. */
export function withoutPadding(bytes: Buffer): Buffer {
  return bytes.subarray(0, bytes.findLastIndex((byte) => byte !== 0) + 1)
}

/** A change of names in one step: `removes` goes, then `puts` leads to `file`. */
interface NameChange {
  readonly removes?: string
  readonly puts?: string
  readonly file?: FilePicture
}

type Change = { readonly position: number; readonly bytes: Buffer } | { readonly length: number }

/** What is known of one file, whatever its name. */
class FilePicture {
  visible: Buffer
  durable: Buffer
  /** How many of its bytes were there when the store opened it. */
  bytesAtOpen = 0
  #pending: Change[] = []

  constructor(durable: Uint8Array = Buffer.alloc(0)) {
    this.visible = Buffer.from(durable)
    this.durable = this.visible
  }

  get isDurable(): boolean {
    return this.durable.equals(this.visible)
  }

  get hasHeader(): boolean {
    return this.visible.includes('\n')
  }

  get hasDurableHeader(): boolean {
    return this.durable.includes('\n')
  }

  /** Sequence number of the first record, from the header; NaN without a complete header. */
  get firstSequence(): number {
    const [header = ''] = this.hasHeader ? this.visible.toString('utf8').split('\n', 1) : []
    return Number(/ seq=(\d+)/.exec(header)?.[1] ?? Number.NaN)
  }

  lineOf(sequence: number, where: 'visible' | 'durable'): string | undefined {
    const lines = this[where].toString('utf8').split('\n')
    // Text after the last line feed is not a line.
    return lines.slice(0, -1)[sequence - this.firstSequence + 1]
  }

  /** Replaces the visible content; the new bytes are not durable yet. */
  replace(bytes: Uint8Array): void {
    if (this.visible.equals(bytes)) return
    this.write({ position: 0, bytes: Buffer.from(bytes) })
    this.write({ length: bytes.length })
  }

  write(change: Change): void {
    this.visible = changed(this.visible, change)
    this.#pending.push(change)
  }

  settle(): void {
    for (const change of this.#pending) this.durable = changed(this.durable, change)
    this.#pending = []
  }

  /** Drops pending changes: they stay visible, and no later sync makes them durable. */
  drop(): void {
    this.#pending = []
  }
}

function changed(content: Buffer, change: Change): Buffer {
  const end = 'length' in change ? change.length : Math.max(content.length, change.position + change.bytes.length)
  const next = Buffer.alloc(end)
  content.copy(next)
  if ('bytes' in change) change.bytes.copy(next, change.position)
  return next
}

function apply(names: Map<string, FilePicture>, { removes, puts, file }: NameChange): void {
  if (removes !== undefined) names.delete(removes)
  if (puts !== undefined && file !== undefined) names.set(puts, file)
}

function isIn(directory: string, path = ''): boolean {
  const at = path.lastIndexOf('/')
  return directory === (at <= 0 ? '/' : path.slice(0, at))
}

/**
 * Whether two contents under one name belong to one file. Segments are told apart by their headers.
 */
function isSameFile(visible: Uint8Array, durable: Uint8Array): boolean {
  const [one = '', other = ''] = [visible, durable].map((bytes) => Buffer.from(bytes).toString('latin1').split('\n', 1)[0])
  return one.startsWith(other) || other.startsWith(one)
}

/** Whether there is no line after the first. */
function isHeaderOnly(bytes: Buffer): boolean {
  const end = bytes.indexOf('\n')
  return end === -1 || end === bytes.length - 1
}

function sealBytes(seal: Buffer): number {
  return Number(/^bytes=(\d+) /.exec(seal.toString('latin1'))?.[1] ?? 0)
}
