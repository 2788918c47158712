import { basename, dirname, join } from 'node:path'

import { temporarySuffix } from '../fs/durable.ts'

/** The highest number of a sealed segment: a name with more digits is not taken for one. */
export const maxSegmentNumber = 999_999_999_999_999

/** The files of one journal, all in one directory. The active segment's path is the journal's path. */
export class JournalFiles {
  readonly path: string
  readonly directory: string
  readonly name: string
  readonly seal: string
  readonly lock: string
  readonly next: string

  constructor(path: string) {
    this.path = path
    this.directory = dirname(path)
    this.name = basename(path)
    this.seal = `${path}.seal`
    this.lock = `${path}.lock`
    this.next = `${path}.next`
  }

  /** The path of a file of this name beside the journal. */
  at(name: string): string {
    return join(this.directory, name)
  }

  /** Name of a sealed segment: at least three digits, more when the number needs them. */
  sealedName(number: number): string {
    return `${this.name}.${String(number).padStart(3, '0')}`
  }

  /**
   * Number of a sealed segment by its file name, undefined when the name is not one. Any count of digits
   * will do: the Rust crate writes six.
   */
  sealedNumber(name: string): number | undefined {
    if (!name.startsWith(`${this.name}.`)) return undefined
    const digits = name.slice(this.name.length + 1)
    return /^\d{1,15}$/.test(digits) ? Number(digits) : undefined
  }

  /** Name for the bytes that recovery removed; `copy` counts from 1 when one name is taken. */
  tornName(sequence: number, copy: number): string {
    return `${this.name}.torn-${sequence}${copy === 1 ? '' : `-${copy}`}`
  }

  /** A name as long as any that a writer or a repair gives to a file of this journal. */
  get longestName(): string {
    return `${this.tornName(Number.MAX_SAFE_INTEGER, 999)}${temporarySuffix}`
  }

  /** Whether a writer of this journal makes, renames or removes files of this name; the active segment does not count. */
  isOwn(name: string): boolean {
    const others = [this.seal, this.lock].map((path) => basename(path))
    return this.sealedNumber(name) !== undefined || this.isLeftover(name) || others.includes(name)
  }

  /** Whether a file is left over from something that a crash cut short. */
  isLeftover(name: string): boolean {
    if (!name.startsWith(`${this.name}.`)) return false
    const ending = name.slice(this.name.length + 1)
    return ending === 'next' || (ending.endsWith(temporarySuffix) && /^(seal|torn-[\d-]+|repair)\./.test(ending))
  }
}
