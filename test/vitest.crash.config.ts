import { mergeConfig } from 'vitest/config'

import ordinary from './vitest.config.ts'

/** The crash suite at its full size: see README.md beside this file. */
export default mergeConfig(ordinary, {
  test: {
    env: { MINISTORE_CRASH: 'full' },
    testTimeout: 3_000_000,
    hookTimeout: 600_000,
  },
})
