// Appends under a limit on the size of files, until an append is refused; then uses the store further, and
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
  /** Whether it was written; any refusal but of the system ends the process. */
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
  // What is larger than the limit never fits; what is small does, behind the last record.
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
