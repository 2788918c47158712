// One of several processes that compete for a journal. It tries until it owns the journal, uses it
// for a moment, releases it and tries again, until it is killed. See ../lock-contention.test.ts.
import { closeSync, openSync, readFileSync, rmSync, unlinkSync, writeSync } from 'node:fs'
import { setTimeout as after } from 'node:timers/promises'

import { MiniStore } from '../../../dist/index.js'
import { fail, instructions, report, seededRandom } from './report.js'

const { path, sideFile, contender, seed, options, removesLockFile } = await instructions()
const random = seededRandom(seed)
let refused = 0
let turn = 0

/** The clock that all processes of a machine share, in nanoseconds. */
const now = () => String(process.hrtime.bigint())

/** Occasionally removes the lock file, as an operator or a cleanup job might. */
function clearUp() {
  if (removesLockFile && random(3) === 0) rmSync(`${path}.lock`, { force: true })
}

/** Resolves with a store. Counts each refused attempt. */
async function own() {
  for (;;) {
    try {
      return await MiniStore.open(path, options)
    } catch (error) {
      if (error.code !== 'ERR_MINISTORE_LOCKED') throw error
      refused += 1
      clearUp()
      await after(random(8))
    }
  }
}

/**
 * Creates the side file, which only an owner touches. Returns which process left an existing one.
 */
function takeSideFile() {
  let leftBy = null
  for (;;) {
    try {
      const file = openSync(sideFile, 'wx')
      writeSync(file, String(contender))
      closeSync(file)
      return leftBy
    } catch (error) {
      if (error.code !== 'EEXIST' || leftBy !== null) throw error
      leftBy = readFileSync(sideFile, 'utf8')
      unlinkSync(sideFile)
    }
  }
}

try {
  for (;;) {
    const store = await own()
    const at = now()
    turn += 1
    report({ type: 'begin', turn, at, refused, leftBy: takeSideFile(), last: store.lastSequence })
    refused = 0
    for (let count = random(6); count > 0; count--) {
      const sequence = await store.append({ contender, turn, text: 'x'.repeat(random(2000)) })
      report({ type: 'appended', turn, sequence })
    }
    clearUp()
    // During a rotation there is, for a moment, no active segment.
    if (removesLockFile) await store.rotate()
    if (store.lastSequence > 300) {
      if (random(4) === 0) await store.rotate()
      await store.truncateBefore(store.lastSequence - 100)
    }
    unlinkSync(sideFile)
    report({ type: 'end', turn, at: now() })
    await store.close()
    await after(random(8))
  }
} catch (error) {
  fail(error)
}
