import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: { conditions: ['@kinora/source'] },
  ssr: { resolve: { conditions: ['@kinora/source'] } },
  test: {
    include: [
      'packages/*/{src,test}/**/*.test.ts',
      'apps/*/{src,test}/**/*.test.ts',
      'tooling/**/*.test.ts',
      'examples/*.test.ts',
    ],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
  },
})
