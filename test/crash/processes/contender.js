// One of several processes that want the same journal. Tries until it has it, makes use of it for a moment,
// gives it back and tries again, until it is killed. See ../lock-contention.test.ts.
import { closeSync, openSync, readFileSync, rmSync, unlinkSync, writeSync } from 'node:fs'
import { setTimeout as after } from 'node:timers/promises'

import { MiniStore } from '../../../dist/index.js'
import { fail, instructions, report, seededRandom } from './report.js'

const { path, sideFile, contender, seed, options, removesLockFile } = await instructions()
const random = seededRandom(seed)
let refused = 0
let turn = 0

/** The clock that all processes of one machine share, in nanoseconds. */
const now = () => String(process.hrtime.bigint())

/** Now and then removes the lock file, as somebody who clears up might. */
function clearUp() {
  if (removesLockFile && random(3) === 0) rmSync(`${path}.lock`, { force: true })
}

/** Resolves with a store; each attempt that is refused is counted. */
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

/** Makes the side file, which only an owner touches; tells whose it was when one is there. */
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
    // A rotation is the moment in which there is no active segment.
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
