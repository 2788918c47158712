import type { Appendable } from './contestants/contestant.ts'
import type { Comparison, Participant, Role, Row } from './results.ts'
import { median, percentiles, spread } from './statistics.ts'

/** The result of one slice of one contestant. Times are nanoseconds. */
export interface Slice {
  /** How many units of work were done. A fraction is possible. */
  readonly units: number
  readonly time: number
  /** Duration of each call, if calls can be told apart. */
  readonly latencies?: readonly number[] | undefined
}

/** A row of a comparison before its figures are known: its name, its role, and remarks. */
export interface Entrant {
  readonly name: string
  readonly role: Role
  readonly notes: readonly string[]
  readonly because?: string | undefined
}

/**
 * Makes a comparison of slices that were measured in turn. `ratio` relates each time to that of the
 * first floor in the same round, and `versusLibrary` to that of the library's first entrant. Both must
 * be among the entrants, and `slices` must have as many slices for every entrant.
 */
export function compare(
  about: { readonly label: string; readonly unit: string },
  entrants: readonly Entrant[],
  slices: ReadonlyMap<string, readonly Slice[]>,
): Comparison {
  const slicesOf = ({ name }: Entrant) => slices.get(name) as readonly Slice[]
  const timesOf = (entrant: Entrant) => slicesOf(entrant).map(({ units, time }) => time / units)
  const floor = timesOf(entrants.find(({ role }) => role === 'floor') as Entrant)
  const library = timesOf(entrants.find(({ role }) => role === 'library') as Entrant)
  const rows = inOrder(entrants).map((entrant): Row => {
    const times = timesOf(entrant)
    const latencies = slicesOf(entrant).flatMap(({ latencies: some = [] }) => some)
    return {
      ...entrant,
      time: median(times),
      ratio: spread(times.map((time, round) => time / (floor[round] as number))),
      versusLibrary: spread(times.map((time, round) => time / (library[round] as number))),
      latency: latencies.length === 0 ? undefined : percentiles(latencies),
    }
  })
  return { ...about, rounds: floor.length, rows }
}

/** A contestant as an entrant of a comparison in which `callers` callers append concurrently. */
export function entrantOf(
  contestant: Pick<Appendable, 'name' | 'blocksEventLoop' | 'sharing'>,
  role: Role,
  callers: number,
): Entrant {
  const { name, blocksEventLoop } = contestant
  const sharing = callers > 1 ? contestant.sharing : undefined
  const reason = sharing ?? (blocksEventLoop ? 'blocking' : undefined)
  const because = reason === undefined ? undefined : reasons[reason]
  const notes = [blocksEventLoop ? 'blocks the event loop' : undefined, sharing]
  return { name, role, notes: notes.filter((note) => note !== undefined), because }
}

/** Sorts the floor first, then the library, then the peers in the given order. */
function inOrder(entrants: readonly Entrant[]): Entrant[] {
  const roles: readonly Role[] = ['floor', 'library', 'peer']
  return entrants.toSorted((left, right) => roles.indexOf(left.role) - roles.indexOf(right.role))
}

export function participantOf({ name, version, promise }: Participant): Participant {
  return { name, version, promise }
}

/**
 * Why a contestant can be faster than one that leaves the event loop free and gives every append
 * its own sync.
 */
const reasons = {
  blocking: 'it makes the event loop wait for the disk, which saves the way to another thread and back',
  'groups concurrent appends': 'it puts the appends of callers who wait at the same time under one sync',
  'overlaps syncs':
    'its syncs overlap, and the file system serves several with one commit; the order is left to chance',
} as const
