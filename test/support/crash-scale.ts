/** Whether the crash suite runs at its full size (`npm run test:crash`) or at its ordinary size. */
export const isFullCrashSuite: boolean = process.env['MINISTORE_CRASH'] === 'full'

/** Returns the size for the suite that runs: ordinary or full. */
export function scaled(ordinary: number, full: number): number {
  return isFullCrashSuite ? full : ordinary
}
