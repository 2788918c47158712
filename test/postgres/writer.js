// A writer in a process of its own: `node writer.js URL JOURNAL NAME MODE`. It opens the state of a journal,
// applies mutations with names of its own and reports each outcome to its parent.
//
// `once` applies until a call fails, and then tries every call. `race` opens again whenever it is fenced, and
// compacts every 50 mutations, until its parent disconnects.
import { setTimeout as sleep } from 'node:timers/promises'

import { Pool } from 'pg'

import { StateManager } from '../../dist/ministate/index.js'
import { PostgresJournal, PostgresSnapshots } from '../../dist/postgres/index.js'

const [url, journalName, name, mode] = process.argv.slice(2)
const pool = new Pool({ connectionString: url, max: 5 })
pool.on('error', () => {})
const stop = new AbortController()
process.on('disconnect', () => stop.abort())
const report = (message) => process.connected && process.send(message)
const codeOf = (call) => call.then(() => 'done', (error) => error.code ?? String(error))

const openState = async () => {
  const journal = await PostgresJournal.open(pool, journalName, { timeoutMs: 30_000 })
  return await StateManager.over(journal, new PostgresSnapshots(journal, { keep: 2 }), {
    initialState: () => ({ ids: [] }),
    mutator: (state, id) => void state.ids.push(id),
  })
}

let count = 0
const applyNext = async (state) => {
  const id = `${name}-${++count}`
  report({ id, sequence: await state.apply(id) })
}

if (mode === 'once') {
  const state = await openState()
  report({ opened: true })
  try {
    while (!stop.signal.aborted) await applyNext(state)
  } catch (error) {
    const calls = { first: error.code }
    for (const [call, run] of Object.entries({
      apply: () => state.apply('never'), applyAll: () => state.applyAll(['never']), compact: () => state.compact(),
      createSnapshot: () => state.createSnapshot(),
    })) calls[call] = await codeOf(run())
    report({ calls, applied: state.state.ids.length })
  }
} else {
  while (!stop.signal.aborted) {
    try {
      const state = await openState()
      for (let n = 1; !stop.signal.aborted && n <= 200; n++) {
        await applyNext(state)
        if (count % 50 === 0) await state.compact()
      }
      await state.close()
    } catch (error) {
      report({ code: error.code ?? String(error), message: error.message })
    }
    await sleep(Math.random() * 60)
  }
}
await pool.end()
