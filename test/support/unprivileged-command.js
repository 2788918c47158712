// Runs commands as an unprivileged user and reports what each printed and how it ended. A root
// process can become such a user but not change back, so this is a separate process.
import { Readable } from 'node:stream'

import { Output } from '../../dist/cli/output.js'
import { run } from '../../dist/cli/run.js'

const [user, calls] = process.argv.slice(2)
process.setgid(Number(user))
process.setgroups([Number(user)])
process.setuid(Number(user))

const outcomes = []
for (const args of JSON.parse(calls)) {
  const printed = { stdout: '', stderr: '' }
  const output = (name) => {
    const write = (text, done) => {
      printed[name] += text
      done()
      return true
    }
    return new Output({ write, on: () => {} })
  }
  const io = {
    openStdin: () => Readable.from([]),
    stdout: output('stdout'),
    stderr: output('stderr'),
    env: {},
    signal: new AbortController().signal,
  }
  const code = await run(args, io)
  outcomes.push({ code, ...printed })
}
process.send(outcomes)
process.disconnect()
