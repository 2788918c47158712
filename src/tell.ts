import { messageOf } from './errors.ts'

/**
 * Tells a listener of an error that nobody waits for; without one it is a warning of the process. Never throws, whatever
 * the listener does: what it throws, now or later, is a warning too.
 */
export function tell(listener: ((error: unknown) => unknown) | undefined, error: unknown): void {
  if (listener === undefined) {
    warn(error)
    return
  }
  try {
    Promise.resolve(listener(error)).catch(warn)
  } catch (thrown) {
    warn(thrown)
  }
}

function warn(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : messageOf(error))
}
