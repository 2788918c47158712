import type { Defect } from './defects.ts'

/** Defects of the queue. */
export const queueDefects: readonly Defect[] = [
  {
    name: 'queue: an ack resolves before it is durable',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: '      await this.#log.inTurn(() => this.#log.commit(mutationOf(acknowledgement.steps())))\n',
        by: `      const written = this.#log.inTurn(() => this.#log.commit(mutationOf(acknowledgement.steps())))
      if (acknowledgement.steps()[0]?.op === 'ack') written.catch(() => {})
      else await written
`,
      },
    ],
    finding: /^queue: enqueue, deliver, acknowledge.*found is waiting \[\d ×1 .*expected waiting \[/,
  },
  {
    name: 'queue: an attempt is counted in memory only, and written with whatever comes next',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: "    const steps: QueueStep[] = attempts.length === 0 ? [...others] : [...others, { op: 'deliver', ids: attempts }]\n",
        by: '    const steps = others\n    for (const id of attempts) this.#log.state.messages[id]!.attempts += 1\n',
      },
    ],
    finding: /^queue: enqueue, deliver, acknowledge.*found is waiting \[\d ×0 .*expected waiting \[\d ×1 /,
  },
  {
    name: 'queue: what was in flight when its process ended is never delivered again',
    patches: [
      {
        file: 'miniqueue/messages.ts',
        find: '      else (dueAtOf(message)',
        by: '      else if (message.attempts === 0) (dueAtOf(message)',
      },
    ],
    finding: /^queue: .*(?:ready, 0 delayed, but \d received)/,
  },
  {
    name: 'queue: a dead letter is dropped when it is buried',
    patches: [{ file: 'miniqueue/state.ts', find: '    this.#state.dead[id] = letter\n', by: '' }],
    finding: /^queue: leases that end.*There is no dead letter 1/,
  },
  {
    name: 'queue: a burial at the end of a lease is not written',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: "        return this.#log.commit({ op: 'bury', ids, reason: fitting, at })\n",
        by: "        return this.#log.pretend({ op: 'bury', ids, reason: fitting, at })\n",
      },
      {
        file: 'miniqueue/log.ts',
        find: '  async compact(): Promise<CompactionReport> {\n    return await this.inTurn(',
        by: `  async pretend(mutation: QueueMutation): Promise<void> {
    this.#follow(mutation, applyMutation(this.state, mutation, this.directory))
  }

  async compact(): Promise<CompactionReport> {
    return await this.inTurn(`,
      },
    ],
    finding: /^queue: delivered too often.*found is waiting \[1 ×2 .*expected .*dead \[1 ×2/,
  },
  {
    name: 'queue: keys are forgotten by a compaction',
    patches: [
      {
        file: 'miniqueue/log.ts',
        find: '      const report = await this.#manager.compact()\n',
        by: `      for (const name of Object.keys(this.state.keys)) delete this.state.keys[name]
      const report = await this.#manager.compact()
`,
      },
    ],
    finding: /^queue: keys that count.*(?:found is|the key \w+ gives)/,
  },
  {
    name: 'queue: enqueueAll writes one message after the other',
    patches: [
      {
        file: 'miniqueue/miniqueue.ts',
        find: '        await this.#dispatcher.enqueue(step, text())\n',
        by: `        for (const message of step.messages) {
          const single = { ...step, messages: [message] }
          await this.#dispatcher.enqueue(single, JSON.stringify(single))
        }
`,
      },
    ],
    finding: /^queue: many in one call: .*found is waiting \[1 ×0 [^,]*\], dead .*expected waiting \[\]/,
  },
  {
    name: 'queue: a redriven message stays among the dead',
    patches: [
      {
        file: 'miniqueue/state.ts',
        find: '    const letter = this.#takeDead(id)\n    if (letter === undefined) return\n',
        by: '    const letter = this.#state.dead[id]\n    if (letter === undefined) return\n    this.dead--\n',
      },
    ],
    finding: /^queue: delivered too often.*message 1 is dead, and should not be/,
  },
  {
    name: 'queue: purge removes what is in flight',
    patches: [
      {
        file: 'miniqueue/contents.ts',
        find: "commit({ op: 'purge', except })",
        by: "commit({ op: 'purge', except: [] })",
      },
    ],
    finding: /^queue: purged.*purge of \d gives \d/,
  },
  {
    name: 'queue: what is nacked goes to the end',
    patches: [
      {
        file: 'miniqueue/state.ts',
        find: '    this.#replace(id, message, nacked)\n',
        by: '    this.#replace(id, message, { ...nacked, order: this.#state.nextOrder++ })\n',
      },
    ],
    finding: /^queue: given back.*received 3,2, expected 2,3/,
  },
  {
    name: 'queue: a redriven message keeps its attempts',
    patches: [
      {
        file: 'miniqueue/state.ts',
        find: '    const { payload, bytes, priority, enqueuedAt, key } = letter\n',
        by: '    const { payload, bytes, priority, enqueuedAt, key, attempts } = letter\n',
      },
      {
        file: 'miniqueue/state.ts',
        find: 'enqueuedAt, attempts: 0, ...lasting(letter)',
        by: 'enqueuedAt, attempts, ...lasting(letter)',
      },
    ],
    finding: /^queue: .*message 1 has attempt 3, expected 1/,
  },
  {
    name: 'queue: closing leaves the attempts of messages that were never handed out',
    patches: [
      {
        file: 'miniqueue/miniqueue.ts',
        find: '    await this.#dispatcher.refundAttempts()\n',
        by: '',
      },
    ],
    finding: /^queue: fetched ahead.*given to nobody, message \d has 1 attempts, expected 0/,
  },
  {
    name: 'queue: the attempts of messages that were never handed out stay until the queue is closed',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: '    this.refundAttempts().catch((error: unknown) => this.#log.tell(error))\n',
        by: '',
      },
    ],
    finding: /^queue: fetched ahead.*given to nobody, message \d has 1 attempts, expected 0/,
  },
  {
    name: 'queue: closing takes back attempts that were made',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: '    const ids = this.#messages.unusedAttempts\n',
        by: '    const ids = [...this.#messages.unusedAttempts, ...(this.isOpen ? [] : this.#messages.inFlight.keys())]\n',
      },
    ],
    finding: /^queue: .*found is waiting \[\d ×\d /,
  },
  {
    name: 'queue: the outcome of a handler is written later, and the handler is not kept waiting for it',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: '      if (steps.length > 0) await this.#log.commit(mutationOf(steps))\n',
        by: `      if (attempts.length > 0) await this.#log.commit({ op: 'deliver', ids: attempts })
      if (others.length > 0) void this.#log.commit(mutationOf(others)).catch(() => {})
`,
      },
    ],
    finding: /^queue: handled, each.*message \d is not told that its queue is closed/,
  },
  {
    name: 'queue: an attempt of somebody who waited is counted in memory only',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: "    await this.#log.commit({ op: 'batch', steps: [step, deliver] }, batchText)\n",
        by: `    await this.#log.commit(step, text)
    for (const id of ids) this.#log.state.messages[id]!.attempts += 1
    this.#messages.take(ids.length)
`,
      },
    ],
    finding: /^queue: enqueued for somebody.*found is waiting \[\d ×0 .*expected waiting \[\d ×1 /,
  },
  {
    name: 'queue: an attempt that a stop has ended counts',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: "      return isStopped ? [{ op: 'return', ids: [id] }, nack] : [nack]\n",
        by: '      return [nack]\n',
      },
    ],
    finding: /^queue: stopped in the only attempt.*found is waiting \[2 ×1 .*expected waiting \[2 ×0 /,
  },
  {
    name: 'queue: a run that is stopped hands out one more message',
    patches: [
      {
        file: 'miniqueue/worker.ts',
        find: '        isWanted: () => !this.#isStopped,\n',
        by: '        isWanted: () => true,\n',
      },
      {
        file: 'miniqueue/worker.ts',
        find: '      if (this.#isStopped) return this.#queue.dispatcher.requeue([lease])\n',
        by: '',
      },
    ],
    finding: /^queue: stopped in the only attempt.*the handler of message \d began after the stop/,
  },
  {
    name: 'queue: a lease has no end after its handler has ended',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: '    this.#log.messages.limit(lease, this.#now, this.#settings.visibilityTimeoutMs)\n',
        by: '',
      },
    ],
    finding: /^queue: a message whose ack cannot be written.*handled 1 times/,
  },
  {
    name: 'queue: a cancelled message keeps its key',
    patches: [
      {
        file: 'miniqueue/state.ts',
        find: '        for (const id of step.ids) this.#drop(id)\n',
        by: '        for (const id of step.ids) this.#takeMessage(id)\n',
      },
    ],
    finding: /^queue: cancelled.*the queue has \{"ready":1.*expected \{"ready":2/,
  },
  {
    name: 'queue: the limit of a message is forgotten when it is delivered',
    patches: [
      {
        file: 'miniqueue/messages.ts',
        find: 'isLast: attempt >= maxAttempts, beganAt',
        by: 'isLast: attempt >= this.#maxAttempts, beganAt',
      },
    ],
    finding: /^queue: cancelled.*found is waiting .*expected waiting /,
  },
]
