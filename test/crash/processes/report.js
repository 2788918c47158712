// How a child process reports and receives its instructions.
import { writeSync } from 'node:fs'
import { createInterface } from 'node:readline'

/**
 * Reports one message as a line of JSON on standard output. The write is synchronous: when it
 * returns, the bytes have left this process. SIGKILL cannot take them back, and no later action is
 * visible before them.
 */
export function report(message) {
  const bytes = Buffer.from(`${JSON.stringify(message)}\n`)
  for (let written = 0; written < bytes.length; ) {
    try {
      written += writeSync(1, bytes, written)
    } catch (error) {
      // The pipe is full: its reader is a moment behind.
      if (error.code !== 'EAGAIN') throw error
      Atomics.wait(pause, 0, 0, 1)
    }
  }
}

const pause = new Int32Array(new SharedArrayBuffer(4))

/** Reports that this process is ready, and resolves with its instructions. */
export async function instructions() {
  report({ type: 'ready' })
  const lines = createInterface({ input: process.stdin })
  const { value } = await lines[Symbol.asyncIterator]().next()
  lines.close()
  process.stdin.destroy()
  return JSON.parse(value)
}

/** Reports an error, with the code of the underlying system error, and ends this process. */
export function fail(error) {
  const message = String(error?.stack ?? error)
  report({ type: 'failed', code: error?.code, cause: error?.cause?.code, message })
  process.exit(1)
}

/**
 * The generator of test/support/seeded-random.ts (mulberry32). That file cannot be imported without
 * compiling it.
 */
export function seededRandom(seed) {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}
