#!/usr/bin/env node
import { createRequire } from 'node:module'

import { commands } from './commands.ts'
import { processIo } from './io.ts'
import { run } from './run.ts'

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string }
const code = await run(process.argv.slice(2), processIo(), { commands, version })
// Standard input may still be open and would keep the process running.
process.exit(code)
