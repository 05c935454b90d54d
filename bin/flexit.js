#!/usr/bin/env node
// The command `flexit`: starts the compiled program, or says what is missing.
// Plain JavaScript, so that it runs before anything is built.

import { existsSync } from 'node:fs'

const program = new URL('../dist/src/cli/main.js', import.meta.url)

if (existsSync(program)) {
  const { main } = await import(program.href)
  await main(process.argv)
} else {
  console.error('error: flexit is not built yet\nRun `npm ci` and `npm run build` in its folder.')
  process.exitCode = 1
}
