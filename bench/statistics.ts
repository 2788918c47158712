/** The median and the quartiles of some values: half of them lie between `p25` and `p75`. */
export interface Spread {
  readonly median: number
  readonly p25: number
  readonly p75: number
}

/** The median, the 99th percentile and the maximum of some values. */
export interface Percentiles {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export function median(values: readonly number[]): number {
  return quantile(sorted(values), 0.5)
}

export function spread(values: readonly number[]): Spread {
  const ascending = sorted(values)
  return { median: quantile(ascending, 0.5), p25: quantile(ascending, 0.25), p75: quantile(ascending, 0.75) }
}

export function percentiles(values: readonly number[]): Percentiles {
  const ascending = sorted(values)
  return { p50: quantile(ascending, 0.5), p99: quantile(ascending, 0.99), max: quantile(ascending, 1) }
}

/**
 * The waiting times of `callers` callers who take turns at an operation that only one at a time can
 * do. A caller waits for its own turn and for the turns of all others before it. `durations` are
 * those of the turns, in order.
 */
export function waitsInTurn(durations: readonly number[], callers: number): number[] {
  let wait = 0
  return durations.flatMap((duration, turn) => {
    wait += duration - (turn < callers ? 0 : (durations[turn - callers] as number))
    // Until every caller has had a turn, the queue is shorter, so those waits are left out.
    return turn < callers - 1 ? [] : [wait]
  })
}

/**
 * The value below which a share of the values lies, interpolated linearly between two neighbors.
 */
function quantile(ascending: readonly number[], share: number): number {
  if (ascending.length === 0) throw new RangeError('Expected at least one value, got none')
  const place = (ascending.length - 1) * share
  const below = ascending[Math.floor(place)] as number
  const above = ascending[Math.ceil(place)] as number
  return below + (above - below) * (place - Math.floor(place))
}

function sorted(values: readonly number[]): number[] {
  return values.toSorted((left, right) => left - right)
}
