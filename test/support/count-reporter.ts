import type { Reporter, TestModule, Vitest } from 'vitest/node'

/** How many tests passed, failed and were skipped. */
export interface Counts {
  passed: number
  failed: number
  skipped: number
}

/**
 * Ends a vitest run with one line that programs can read: `N passed, N failed`, followed by `, N
 * skipped` if any test was skipped. It is the last line on standard output, on its own and without
 * colours. `.ci/run` and test/runtimes.js rely on it.
 *
 * Failures outside any test count as failed too, so the line never says `0 failed` after a failed
 * run. Such failures are a module or `describe` that threw while it was collected or in a hook, an
 * unhandled rejection, and a run that found no tests.
 */
export default class CountReporter implements Reporter {
  #vitest: Vitest | undefined

  onInit(vitest: Vitest): void {
    this.#vitest = vitest
  }

  onTestRunEnd(testModules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const line = countLine(countTests(testModules, unhandledErrors.length))
    // The default reporter writes through this logger. Sharing it keeps this line after its
    // summary.
    if (this.#vitest === undefined) console.log(line)
    else this.#vitest.logger.log(line)
  }
}

/** Counts the tests of a run, and the failures outside any test. */
export function countTests(testModules: readonly TestModule[], unhandledErrors: number): Counts {
  const counts: Counts = { passed: 0, failed: unhandledErrors, skipped: 0 }
  for (const testModule of testModules) {
    counts.failed += testModule.errors().length
    for (const suite of testModule.children.allSuites()) counts.failed += suite.errors().length
    for (const test of testModule.children.allTests()) {
      const { state } = test.result()
      // A test that is still pending at the end was interrupted (bail, a crashed worker) and proved
      // nothing.
      counts[state === 'pending' ? 'failed' : state] += 1
    }
  }
  if (counts.passed + counts.failed + counts.skipped === 0) counts.failed = 1
  return counts
}

/** Formats the counts as the final line. */
export function countLine({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}
