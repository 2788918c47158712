import { isThenable } from './async.ts'
import { messageOf, propertyOf } from './errors.ts'

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
    const told = listener(error)
    if (isThenable(told)) Promise.resolve(told).catch(warn)
  } catch (thrown) {
    warn(thrown)
  }
}

function warn(error: unknown): void {
  const isShowable = ['name', 'message', 'stack'].every((name) => typeof propertyOf(error, name) === 'string')
  try {
    process.emitWarning(isShowable ? (error as Error) : messageOf(error))
  } catch {
    // An error of another realm, which Node refuses.
    process.emitWarning(messageOf(error))
  }
}
