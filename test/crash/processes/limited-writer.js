// Appends under a limit on file size until an append is refused. Then it uses the store further and
// ends by itself. See ../real-disk.test.ts, which sets the limit.
import { MiniStore } from '../../../dist/index.js'
import { fail, instructions, report } from './report.js'

const { path, options, bytes } = await instructions()

try {
  const store = await MiniStore.open(path, options)
  const append = async (text) => {
    const sequence = await store.append(text)
    report({ type: 'appended', sequence, text })
  }
  /**
   * Returns whether the record was written. Any refusal other than the system's ends the process.
   */
  const tryAppend = async (text) => {
    try {
      await append(text)
      return true
    } catch (error) {
      if (error.code !== 'ERR_MINISTORE_IO') throw error
      report({ type: 'refused', cause: error.cause?.code, last: store.lastSequence })
      return false
    }
  }
  let number = 0
  const next = (size) => `${++number} `.padEnd(size, 'x')
  while (await tryAppend(next(bytes)));
  // A record larger than the limit never fits. A small one does, right after the last record.
  if (await tryAppend(next(bytes * 2))) throw new Error('A record beyond the limit was taken')
  await append(next(10))
  await store.rotate()
  await append(next(bytes))
  await append(next(10))
  report({ type: 'replayed', texts: await store.replay() })
  await store.close()
  report({ type: 'closed' })
} catch (error) {
  fail(error)
}
