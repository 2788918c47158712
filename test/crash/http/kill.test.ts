import { setTimeout as delay } from 'node:timers/promises'

import { expect, onTestFinished, test } from 'vitest'

import { scaled } from '../../support/crash-scale.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { type CommonReport, KillableProcess } from '../processes/kill-process.ts'

interface Listening {
  readonly type: 'listening'
  readonly port: number
}

/** A message: the number of its request in its epoch is its number in the whole. */
interface Sent {
  readonly producer: number
  readonly n: number
}

const rounds = scaled(20, 500)
const clients = 8

/** Where the server is now, for clients that outlive it. */
const place = { url: '', isOver: false, isComplete: false, confirmed: 0 }

async function startServer(directory: string): Promise<KillableProcess<Listening>> {
  const server = new KillableProcess<Listening>('stream-server.js')
  const listening = new Promise<number>((resolve, reject) => {
    server.onReport = (report: Listening | CommonReport) => {
      if (report.type === 'listening') resolve(report.port)
      else reject(new Error(JSON.stringify(report)))
    }
  })
  await server.start({ directory })
  place.url = `http://127.0.0.1:${await listening}/log`
  return server
}

/** Sends messages until it is over, each until it is confirmed. Resolves with how many were. */
async function produce(producer: number): Promise<number> {
  for (let n = 0; ; ) {
    const headers = {
      'content-type': 'application/json', 'producer-id': `p${producer}`, 'producer-epoch': '0', 'producer-seq': String(n),
    }
    try {
      const answer = await fetch(place.url, { method: 'POST', headers, body: JSON.stringify({ producer, n } satisfies Sent) })
      const isConfirmed = answer.status === 200 || answer.status === 204
      if (isConfirmed) {
        n += 1
        place.confirmed += 1
        if (place.isOver) return n
      } else if (answer.status !== 503) throw new Error(`producer ${producer}: ${answer.status} ${await answer.text()}`, { cause: 'answer' })
    } catch (error) {
      if ((error as Error).cause === 'answer') throw error
      // The server was killed. Whether it took the message is not known, so it is sent again.
      await delay(2)
    }
  }
}

/** Reads from where it is, again and again, until all is confirmed and there is no more. */
async function tail(live: string): Promise<Sent[]> {
  const read: Sent[] = []
  let offset = '-1'
  for (;;) {
    const { isComplete } = place
    try {
      const answer = await fetch(`${place.url}?offset=${offset}${isComplete ? '' : live}`)
      const items = answer.status === 200 ? ((await answer.json()) as Sent[]) : []
      read.push(...items)
      offset = answer.headers.get('stream-next-offset') ?? offset
      if (isComplete && answer.headers.get('stream-up-to-date') === 'true') return read
    } catch {
      await delay(2)
    }
  }
}

test(
  `a server killed ${rounds} times has every confirmed message once, in the order of its producer, and readers miss none`,
  { timeout: scaled(180_000, 3_000_000) },
  async () => {
    const directory = await temporaryDirectory()
    Object.assign(place, { url: '', isOver: false, isComplete: false, confirmed: 0 })
    let server = await startServer(directory)
    onTestFinished(() => server.kill())
    expect((await fetch(place.url, { method: 'PUT', headers: { 'content-type': 'application/json' } })).status).toBe(201)
    const numbers = Array.from({ length: clients }, (_, index) => index)
    const producers = numbers.map(produce)
    const readers = numbers.map((index) => tail(index % 2 === 0 ? '&live=long-poll' : ''))
    for (let round = 0; round < rounds; round++) {
      const enough = place.confirmed + 1 + Math.floor(Math.random() * 40)
      while (place.confirmed < enough) await delay(1 + Math.random() * 5)
      await server.kill()
      server = await startServer(directory)
    }
    place.isOver = true
    const confirmed = await Promise.all(producers)
    place.isComplete = true
    const found: Sent[] = []
    for (let offset = '-1'; ; ) {
      const answer = await fetch(`${place.url}?offset=${offset}`)
      found.push(...((await answer.json()) as Sent[]))
      offset = answer.headers.get('stream-next-offset') ?? ''
      if (answer.headers.get('stream-up-to-date') === 'true') break
    }
    for (const producer of numbers) {
      const own = found.filter((message) => message.producer === producer).map(({ n }) => n)
      expect(own, `producer ${producer}`).toEqual(Array.from({ length: confirmed[producer] ?? -1 }, (_, n) => n))
    }
    for (const read of await Promise.all(readers)) expect(read).toEqual(found)
    expect(found.length).toBeGreaterThan(rounds)
    console.log(`stream kills: ${rounds} kills, ${found.length} messages of ${clients} producers, ${clients} readers`)
  },
)
