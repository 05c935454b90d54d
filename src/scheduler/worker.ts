// What piscina runs in the thread of one device, one task at a time: device-thread.ts, with data that moves between threads.
// https://piscinajs.dev

import { parentPort } from 'node:worker_threads'
import { move, transferableSymbol, valueSymbol, workerData } from 'piscina'
import { DeviceThread } from './device-thread.js'
import type { ItemReply, Reply, Task, WorkerData } from './messages.js'

const thread = new DeviceThread(workerData as WorkerData, (message) => parentPort?.postMessage(message))

/** The thread's only entry. */
export async function handle(task: Task): Promise<Reply> {
  const reply = await thread.handle(task)
  if (reply.kind !== 'done') return reply
  return move({ [transferableSymbol]: buffers(reply.results), [valueSymbol]: reply }) as unknown as Reply
}

function buffers(results: readonly ItemReply[]): ArrayBufferLike[] {
  return results.flatMap((result) => {
    if (result.kind === 'stepped') return [result.z.buffer, result.report.preview.data.buffer]
    return result.kind === 'drawn' ? [result.z.buffer, result.picture.data.buffer] : []
  })
}
