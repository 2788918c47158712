// How a child process reports, and is told what to do.
import { writeSync } from 'node:fs'
import { createInterface } from 'node:readline'

/**
 * Reports one thing, as a line of JSON on standard output. Synchronous: when it returns the bytes have left
 * this process, so SIGKILL cannot take them back, and nothing that follows can be seen before them.
 */
export function report(message) {
  const bytes = Buffer.from(`${JSON.stringify(message)}\n`)
  for (let written = 0; written < bytes.length; ) written += writeSync(1, bytes, written)
}

/** Says that this process is ready, and resolves with what it is told to do. */
export async function instructions() {
  report({ type: 'ready' })
  const lines = createInterface({ input: process.stdin })
  const { value } = await lines[Symbol.asyncIterator]().next()
  lines.close()
  process.stdin.destroy()
  return JSON.parse(value)
}

/** Reports what went wrong, with the code of the system's error under it, and ends this process. */
export function fail(error) {
  const message = String(error?.stack ?? error)
  report({ type: 'failed', code: error?.code, cause: error?.cause?.code, message })
  process.exit(1)
}

/** The generator of test/support/seeded-random.ts (mulberry32), which cannot be imported uncompiled. */
export function seededRandom(seed) {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}
