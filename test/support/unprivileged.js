// Tries a journal as an unprivileged user and reports the outcome of each attempt. A root process
// can become such a user but not change back, so this is a separate process.
import { MiniStore } from '../../dist/index.js'

const [user, ...paths] = process.argv.slice(2)
process.setgid(Number(user))
process.setgroups([Number(user)])
process.setuid(Number(user))

const outcomeOf = async (attempt) => {
  try {
    return { result: await attempt() }
  } catch (error) {
    return {
      code: error.code,
      cause: error.cause?.code,
      message: error.message,
      isKnown: error.name === 'MiniStoreError',
    }
  }
}

const outcomes = []
for (const path of paths) {
  outcomes.push({
    replay: await outcomeOf(() => MiniStore.replay(path)),
    open: await outcomeOf(async () => {
      const store = await MiniStore.open(path)
      await store.close()
      return 'opened'
    }),
  })
}
process.send(outcomes)
process.disconnect()
