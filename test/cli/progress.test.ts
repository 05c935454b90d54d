// What is shown of long work, on a terminal: with codes of its own, and with none of what it tells.

import test from 'ava'
import { createProgress } from '../../src/cli/progress.js'

/** All that is written to a terminal by `work`. */
function shown(work: () => void): string {
  const { stderr } = process
  const { isTTY, columns } = stderr
  const write = Object.getOwnPropertyDescriptor(stderr, 'write')
  let text = ''
  Object.assign(stderr, { isTTY: true, columns: 80 })
  stderr.write = (chunk: string | Uint8Array) => {
    text += String(chunk)
    return true
  }
  try {
    work()
  } finally {
    Object.assign(stderr, { isTTY, columns })
    if (write === undefined) Reflect.deleteProperty(stderr, 'write')
    else Object.defineProperty(stderr, 'write', write)
  }
  return text
}

test.serial('names do not steer the terminal', (t) => {
  const name = 'a\x1b[2J\r\x9bb'
  const text = shown(() => {
    const progress = createProgress({ quiet: false })
    progress.say(name, name)
    progress.doing(name)
    progress.advance(1, 2, [name])
    progress.end()
  })
  t.false(text.includes('\x1b[2J') || text.includes('\x9b'))
  t.true(text.includes('\r\x1b[Ka\uFFFD[2J\uFFFD\uFFFDb '), JSON.stringify(text))
  t.true(text.split('a\uFFFD[2J\uFFFD\uFFFDb').length > 4, 'each is shown')
})
