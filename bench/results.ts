import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import type { Machine } from './machine.ts'
import type { Percentiles, Spread } from './statistics.ts'

/**
 * The role of a row in a comparison: the minimum cost, the library, or another way to do the same.
 */
export type Role = 'floor' | 'library' | 'peer'

/** One contestant's figures in a comparison. Times are nanoseconds. */
export interface Row {
  readonly name: string
  readonly role: Role
  /** Time for one unit, the median over the rounds. */
  readonly time: number
  /** Its time divided by the floor's time in the same round, over all rounds. */
  readonly ratio: Spread
  /** Its time divided by the library's time in the same round, over all rounds. */
  readonly versusLibrary: Spread
  /** Latency of single calls, of all rounds together. */
  readonly latency?: Percentiles | undefined
  /** Short remarks that a reader of the comparison needs. */
  readonly notes: readonly string[]
  /** Why it can be faster than the library. Shown only if it is. */
  readonly because?: string | undefined
}

/** The figures of contestants that did the same work in turn. */
export interface Comparison {
  /** The parameters of the comparison, such as `record=100B callers=64`. */
  readonly label: string
  /** The unit of work that `time` refers to, such as `append`. */
  readonly unit: string
  readonly rounds: number
  readonly rows: readonly Row[]
}

/** A table of figures that are not compared with a floor. */
export interface Figures {
  readonly label: string
  readonly columns: readonly string[]
  readonly rows: ReadonlyArray<{ readonly name: string; readonly cells: readonly string[] }>
}

/** A quantity (`upward`) that changes as another one (`along`) grows. */
export interface Course {
  readonly label: string
  readonly along: string
  readonly upward: string
  readonly lines: ReadonlyArray<{
    readonly name: string
    readonly points: ReadonlyArray<readonly [number, number]>
  }>
}

/** A measured contestant, its version and its promise about durability. */
export interface Participant {
  readonly name: string
  readonly version: string
  readonly promise: string
}

/** The results of a case. */
export interface Findings {
  readonly comparisons?: readonly Comparison[]
  readonly figures?: readonly Figures[]
  readonly courses?: readonly Course[]
  readonly participants?: readonly Participant[]
  /** What could not be measured, with the reasons. */
  readonly missing?: ReadonlyArray<{ readonly name: string; readonly reason: string }>
}

/** A kind of plot of a section. */
export type PlotKind = 'ratios' | 'latency' | 'course'

/** The results of a case, and where, when and how they were measured. */
export interface Section extends Required<Findings> {
  readonly name: string
  readonly title: string
  readonly method: readonly string[]
  readonly date: string
  readonly seconds: number
  readonly command: string
  readonly machine: Machine
  /** The plots to draw. Default: every plot that the findings allow. */
  readonly plots?: readonly PlotKind[] | undefined
}

const fileName = 'results.json'

/** The sections of earlier runs in `folder`, or an empty array if it holds no results. */
export function readResults(folder: string): Section[] {
  const path = join(folder, fileName)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Section[]) : []
}

export async function writeResults(folder: string, sections: readonly Section[]): Promise<void> {
  await writeFile(join(folder, fileName), `${JSON.stringify(sections, rounded, 1)}\n`)
}

/**
 * Returns the sections with `section` added, sorted by the given order of names. It replaces an
 * earlier section of the same name.
 */
export function withSection(
  sections: readonly Section[],
  section: Section,
  order: readonly string[],
): Section[] {
  const others = sections.filter(({ name }) => name !== section.name)
  return [...others, section].toSorted((left, right) => order.indexOf(left.name) - order.indexOf(right.name))
}

/** Rounds fractions to four significant digits, which is more than the measurements support. */
function rounded(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value
}
