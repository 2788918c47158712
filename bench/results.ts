import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import type { Machine } from './machine.ts'
import type { Percentiles, Spread } from './statistics.ts'

/** What somebody is in a comparison: the least that it can cost, the library, or another way to do it. */
export type Role = 'floor' | 'ours' | 'peer'

/** One contestant's figures in a comparison. Times are nanoseconds. */
export interface Row {
  readonly name: string
  readonly role: Role
  /** Median over the rounds of the time for one unit. */
  readonly time: number
  /** Over the rounds, its time divided by that of the floor in the same round. */
  readonly ratio: Spread
  /** Over the rounds, its time divided by ours in the same round. */
  readonly versusOurs: Spread
  /** Of single calls, all rounds together. */
  readonly latency?: Percentiles | undefined
  /** What to know when comparing it, in a few words. */
  readonly notes: readonly string[]
  /** Why it can be faster than ours, when it is. */
  readonly because?: string | undefined
}

/** Contestants that did the same, turn about. */
export interface Comparison {
  /** Its parameters, such as `record=100B callers=64`. */
  readonly label: string
  /** What `time` is the time of. */
  readonly unit: string
  readonly rounds: number
  readonly rows: readonly Row[]
}

/** Figures without a floor. */
export interface Figures {
  readonly label: string
  readonly columns: readonly string[]
  readonly rows: ReadonlyArray<{ readonly name: string; readonly cells: readonly string[] }>
}

/** Something that changes along the way. */
export interface Course {
  readonly label: string
  readonly along: string
  readonly upward: string
  readonly lines: ReadonlyArray<{
    readonly name: string
    readonly points: ReadonlyArray<readonly [number, number]>
  }>
}

/** What was measured, of which version, and what it promises. */
export interface Participant {
  readonly name: string
  readonly version: string
  readonly promise: string
}

/** What a case found. */
export interface Findings {
  readonly comparisons?: readonly Comparison[]
  readonly figures?: readonly Figures[]
  readonly courses?: readonly Course[]
  readonly participants?: readonly Participant[]
  /** What would have been measured and could not be. */
  readonly missing?: ReadonlyArray<{ readonly name: string; readonly reason: string }>
}

/** What can be drawn of a section. */
export type PlotKind = 'ratios' | 'latency' | 'course'

/** What a case found, and where, when and how. */
export interface Section extends Required<Findings> {
  readonly name: string
  readonly title: string
  readonly method: readonly string[]
  readonly date: string
  readonly seconds: number
  readonly command: string
  readonly machine: Machine
  /** What is drawn of it, where it is not all. */
  readonly plots?: readonly PlotKind[] | undefined
}

const fileName = 'results.json'

/** The sections of earlier runs; none when there was none. */
export function readResults(folder: string): Section[] {
  const path = join(folder, fileName)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Section[]) : []
}

export async function writeResults(folder: string, sections: readonly Section[]): Promise<void> {
  await writeFile(join(folder, fileName), `${JSON.stringify(sections, rounded, 1)}\n`)
}

/** The sections with this one in the place of an earlier one of its name, in the given order of names. */
export function withSection(
  sections: readonly Section[],
  section: Section,
  order: readonly string[],
): Section[] {
  const others = sections.filter(({ name }) => name !== section.name)
  return [...others, section].toSorted((left, right) => order.indexOf(left.name) - order.indexOf(right.name))
}

/** Four digits of a number are more than the measurement is good for. */
function rounded(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value
}
