import { mergeConfig } from 'vitest/config'

import ordinary from './vitest.config.ts'

/** The tests of the packed package, with every tool and version: see consumers/. */
export default mergeConfig(ordinary, { test: { env: { MINISTORE_CONSUMERS: 'full' } } })
