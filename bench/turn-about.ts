/** Before those that count. */
const warmUpRounds = 3

/** Something that is measured a slice at a time. */
export interface Runner<Result> {
  readonly name: string
  /** Measures one slice; `round` counts from 0. */
  run(round: number): Promise<Result>
}

/**
 * Lets all runners have one slice in each round, one after another, so that whatever the machine does
 * meanwhile does it to all of them, and what is compared lies close together in time. The order changes from
 * round to round, so that no runner always follows the same one. Resolves with each runner's results by name,
 * one a round.
 */
export async function turnAbout<Result>(
  runners: ReadonlyArray<Runner<Result>>,
  rounds: number,
): Promise<Map<string, Result[]>> {
  return await takeTurns(runners, rounds, collectAll)
}

/**
 * As {@link turnAbout}, for slices of a moment: after rounds that are not looked at, as V8 compiles what runs often
 * while it runs, and holds it up meanwhile for the first thousands of calls. Only young garbage is cleared away between
 * slices: a whole collection throws away what is compiled for objects of which there is none at that moment, and each
 * slice would begin cold.
 */
export async function warmTurnAbout<Result>(
  runners: ReadonlyArray<Runner<Result>>,
  rounds: number,
): Promise<Map<string, Result[]>> {
  await takeTurns(runners, Math.min(rounds, warmUpRounds), collectYoung)
  return await takeTurns(runners, rounds, collectYoung)
}

function collectAll(): void {
  globalThis.gc?.()
}

function collectYoung(): void {
  globalThis.gc?.({ type: 'minor' })
}

async function takeTurns<Result>(
  runners: ReadonlyArray<Runner<Result>>,
  rounds: number,
  collect: () => void,
): Promise<Map<string, Result[]>> {
  const results = new Map(runners.map(({ name }): [string, Result[]] => [name, []]))
  if (results.size < runners.length) throw new Error('Expected runners to have names of their own')
  for (let round = 0; round < rounds; round++) {
    for (const runner of orderIn(round, runners)) {
      // What the one before left behind is not to be cleared away in this one's time.
      collect()
      results.get(runner.name)?.push(await runner.run(round))
    }
  }
  return results
}

/** The order of a round: rotated by one place each round, and every other round backwards. */
export function orderIn<Item>(round: number, items: readonly Item[]): Item[] {
  const first = items.length === 0 ? 0 : round % items.length
  const rotated = [...items.slice(first), ...items.slice(0, first)]
  return round % 2 === 0 ? rotated : rotated.toReversed()
}
