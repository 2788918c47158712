/** Whether the crash suite runs at its full size (`npm run test:crash`) or at that of the ordinary suite. */
export const isFullCrashSuite: boolean = process.env['MINISTORE_CRASH'] === 'full'

/** A size for the ordinary suite and one for the full one. */
export function scaled(ordinary: number, full: number): number {
  return isFullCrashSuite ? full : ordinary
}
