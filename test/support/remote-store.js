// A writer in another process or a worker thread. It takes commands and answers each when it is
// done. See remote-store.ts, which starts it. It is plain JavaScript, since it runs uncompiled on
// the build.
import { appendFileSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'

import { MiniStore } from '../../dist/index.js'
import { StateView } from '../../dist/ministate/index.js'

let store
let view

const commands = {
  open: async (path, options) => {
    store = await MiniStore.open(path, options)
    return { firstSequence: store.firstSequence, lastSequence: store.lastSequence, recovery: store.recovery }
  },
  append: (record) => store.append(record),
  appendAll: (records) => store.appendAll(records),
  rotate: () => store.rotate(),
  truncateBefore: (sequence) => store.truncateBefore(sequence),
  close: () => store.close(),
  // The state of the view is the list of all records.
  openView: async (path, snapshots) => {
    view = await StateView.open(path, { initialState: () => [], mutator: (all, record) => void all.push(record), snapshots })
    return view.sequence
  },
  viewed: async () => ({ sequence: await view.caughtUp(), state: view.state }),
  replay: (path) => MiniStore.replay(path),
  // Dies as in a crash in the middle of a write: some bytes are in the file, and the rest never
  // comes.
  tear: (bytes) => {
    appendFileSync(store.path, Buffer.from(bytes))
    process.kill(process.pid, 'SIGKILL')
  },
}

const answer = (message) => {
  if (parentPort === null) process.send(message)
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread is no window
  else parentPort.postMessage(message)
}

const run = async ({ id, name, parameters }) => {
  try {
    answer({ id, result: await commands[name](...parameters) })
  } catch (error) {
    answer({ id, error: { message: error.message, code: error.code } })
  }
}

// It reports its errors itself.
const take = (message) => void run(message)

if (parentPort === null) process.on('message', take)
else parentPort.on('message', take)
