// Answers requests of the command line one after another in one process, for tests of what is refused before any work.
// A process for each would take most of the time of such a test.

import { main } from '../../src/cli/main.js'
import type { Result } from './support.js'

/** The outputs while `work` runs, in place of writing them. */
async function captured(work: () => Promise<void>): Promise<Omit<Result, 'code'>> {
  const texts = { stdout: '', stderr: '' }
  const restore = (['stdout', 'stderr'] as const).map((name) => {
    const stream = process[name]
    const write = Object.getOwnPropertyDescriptor(stream, 'write')
    stream.write = (chunk: string | Uint8Array) => {
      texts[name] += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString()
      return true
    }
    return () => {
      if (write === undefined) Reflect.deleteProperty(stream, 'write')
      else Object.defineProperty(stream, 'write', write)
      stream.removeAllListeners('error')
    }
  })
  await work().finally(() => restore.forEach((undo) => undo()))
  return texts
}

process.on('message', (args: string[]) => {
  process.exitCode = 0
  void captured(() => main([process.execPath, 'flexit', ...args])).then((texts) => {
    process.send!({ code: Number(process.exitCode), ...texts } satisfies Result)
    process.exitCode = 0
  })
})
