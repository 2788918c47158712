import { rm } from 'node:fs/promises'
import { join } from 'node:path'

import { measureCalls, sliceOfTurns } from '../calls.ts'
import type { Entrant, Slice } from '../comparison.ts'
import { synchronousLoop } from '../contestants/json-lines.ts'
import type { Findings } from '../results.ts'
import { compileFloor, runProgram } from './programs.ts'

/** The parameters of one slice of the floor. */
export interface FloorSlice {
  readonly directory: string
  /** Bytes per append, including the line feed. */
  readonly bytes: number
  readonly milliseconds: number
  /** Appends per compared unit; may be fractional. Default: 1. */
  readonly appends?: number
}

/** The minimum cost of durability: one write and one sync each time data must be durable. */
export interface AppendFloor {
  readonly name: string
  /** The C floor and why it was not compiled, if the floor runs in Node instead. */
  readonly missing: NonNullable<Findings['missing']>
  slice(options: FloorSlice): Promise<Slice>
}

/** Resolves with the C floor, or with the same loop in Node if the C program cannot be compiled. */
export async function appendFloor(): Promise<AppendFloor> {
  const compiled = await compileFloor()
  if ('program' in compiled) {
    const name = 'C, write + fdatasync'
    return { name, missing: [], slice: (options) => compiledSlice(compiled.program, options) }
  }
  const { name } = await synchronousLoop()
  return { name, missing: [{ name: 'C floor', reason: compiled.missing }], slice: nodeSlice }
}

/** The floor as an entrant. Its name says how many appends make one unit, unless it is one. */
export function floorEntrant({ name }: AppendFloor, appends = 1): Entrant {
  return { name: appends === 1 ? name : `${name}, ${countText(appends)} times`, role: 'floor', notes: [] }
}

function countText(appends: number): string {
  return Number.isInteger(appends) ? String(appends) : appends.toFixed(2)
}

async function compiledSlice(program: string, options: FloorSlice): Promise<Slice> {
  const { directory, bytes, milliseconds, appends = 1 } = options
  const path = join(directory, 'floor')
  const durations = await runProgram(program, { path, bytes, milliseconds })
  await rm(path)
  return unitsOf(durations, appends)
}

async function nodeSlice({ directory, bytes, milliseconds, appends = 1 }: FloorSlice): Promise<Slice> {
  const path = join(directory, 'floor')
  const log = await (await synchronousLoop()).open(path)
  // The record is stored as a line of JSON: two quotes and a line feed add three bytes to the text.
  const record = 'x'.repeat(bytes - 3)
  const options = { callers: 1, milliseconds, isBlocking: true }
  const { latencies = [] } = await measureCalls(() => log.append(record), options)
  await log.close()
  await rm(path)
  return unitsOf(latencies, appends)
}

/**
 * Groups appends into units of `appends` each. An incomplete last unit counts as a fraction in
 * `units`. `latencies` leaves it out unless it is the only unit. If `appends` is not an integer,
 * there are no latencies.
 */
function unitsOf(durations: readonly number[], appends: number): Slice {
  const { time } = sliceOfTurns(durations, 1)
  const units = durations.length / appends
  if (!Number.isInteger(appends)) return { units, time }
  const whole = Array.from({ length: Math.max(1, Math.floor(units)) }, (_, unit) =>
    durations.slice(unit * appends, (unit + 1) * appends).reduce((sum, duration) => sum + duration, 0),
  )
  return { units, time, latencies: whole }
}
