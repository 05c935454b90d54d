// Ctrl-C, for work that is worth saving: the first asks it to stop, the second ends the process.
// Exit codes as shells have them: 128 + the number of the signal.

/** Run `work`, which has nothing to save: SIGINT and SIGTERM end the process at once, after `farewell`. */
export async function endable<T>(farewell: () => void, work: () => Promise<T>): Promise<T> {
  const onSignal = (name: NodeJS.Signals) => {
    farewell()
    endBy(name)
  }
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  try {
    return await work()
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}

/**
 * Run `work` with a signal that aborts on SIGINT, on SIGTERM, and when the reader of stdout goes away. A second SIGINT or
 * SIGTERM exits at once.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const onSignal = (name: NodeJS.Signals) => {
    if (!controller.signal.aborted) {
      controller.abort()
      return
    }
    endBy(name)
  }
  const onOutputError = () => controller.abort()
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  process.stdout.on('error', onOutputError)
  try {
    return await work(controller.signal)
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
    process.stdout.off('error', onOutputError)
  }
}

/** End the process at once, also while threads are in a step, by a signal of its own. Who listens for `exit` hears of it. */
export function endBy(name: NodeJS.Signals): never {
  const code = name === 'SIGINT' ? 130 : 143
  process.emit('exit', code)
  process.removeAllListeners(name)
  // Not an ordinary exit: threads in the middle of a step abort in it (ONNX Runtime throws where none catches). Only the
  // first process of a container does not die of its own signal.
  process.kill(process.pid, name)
  // Another thread may be the one to take the signal, a moment later.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_000)
  process.exit(code)
}
