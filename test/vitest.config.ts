import { defineConfig } from 'vitest/config'

export default defineConfig({
  // Node 20 knows Symbol.asyncDispose but not the `using` syntax; this target compiles it away.
  oxc: { target: 'es2023' },
  // Relative to `root`: without it vite would make a second node_modules, below test/.
  cacheDir: '../node_modules/.vite',
  test: {
    root: import.meta.dirname,
    include: ['**/*.test.ts'],
    // Two cores: more workers than that only add noise to the tests that kill processes.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 30_000,
    reporters: ['default', './support/count-reporter.ts'],
    unstubGlobals: true,
    // An unhandled rejection here is a lost durability error, so it always fails the run.
    dangerouslyIgnoreUnhandledErrors: false,
    // A forgotten `.only` would silently shrink the suite.
    allowOnly: false,
    passWithNoTests: false,
  },
})
