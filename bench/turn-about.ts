/** Maximum number of warm-up rounds. */
const warmUpRounds = 3

/** A contestant that is measured one slice at a time. */
export interface Runner<Result> {
  readonly name: string
  /** Measures one slice; `round` counts from 0. */
  run(round: number): Promise<Result>
}

/**
 * Runs one slice of every runner in each round, one after another. Disturbances of the machine
 * therefore affect all runners, and the compared slices lie close together in time. The order
 * changes from round to round, so that no runner always follows the same one. All garbage is
 * collected before each slice.
 *
 * Resolves with each runner's results by name, one per round. Slices never overlap.
 *
 * @throws {Error} if two runners have the same name.
 */
export async function turnAbout<Result>(
  runners: ReadonlyArray<Runner<Result>>,
  rounds: number,
): Promise<Map<string, Result[]>> {
  return await takeTurns(runners, rounds, collectAll)
}

/**
 * Like {@link turnAbout}, for short slices, with two differences:
 *
 * - Up to three warm-up rounds run first and do not count. V8 compiles hot code while the code
 *   runs, which slows down the first thousands of calls.
 * - Only young garbage is collected before each slice. A full collection discards code compiled for
 *   objects that do not exist at that moment (`--trace-deopt` calls them weak objects), so each
 *   slice would start cold. With slices of 0.2 s, an enqueue then had a p99 of 3 ms, not 0.5 ms.
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
      // Collects the garbage of the previous runner outside this runner's measured time.
      collect()
      results.get(runner.name)?.push(await runner.run(round))
    }
  }
  return results
}

/** The order of a round: rotated by one place per round, and reversed in every odd round. */
export function orderIn<Item>(round: number, items: readonly Item[]): Item[] {
  const first = items.length === 0 ? 0 : round % items.length
  const rotated = [...items.slice(first), ...items.slice(0, first)]
  return round % 2 === 0 ? rotated : rotated.toReversed()
}
