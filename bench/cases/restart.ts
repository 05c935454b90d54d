// The process of the server killed and started again while edits run: the client library goes on with them, to the same
// bits. Resume: proto/flexit/v1/editor.proto, StartEdit.resume_from.

import { type CompletedEvent, connect } from '../../src/client/client.js'
import { countSoloBits, request } from '../kit/edits.js'
import { Random } from '../kit/random.js'
import type { Report } from '../kit/report.js'
import { ServerProcess } from '../kit/server.js'

const edits = 16
const kills = 3
const patienceMs = 300_000
const parameters = { steps: 80, views: 1 }

export async function run(report: Report): Promise<void> {
  const random = new Random(1)
  let server = await ServerProcess.start()
  const { port } = server
  // How long a server takes to start is not what is measured.
  const client = connect(server.address, { startMs: patienceMs, reconnectMs: patienceMs })
  let [resumed, outOfOrder] = [0, 0]
  let stepsUntilKill = Infinity
  let kill: () => void = () => undefined
  const requests = Array.from({ length: edits }, (_, i) => request(i, parameters))
  const ends = requests.map(async (one): Promise<CompletedEvent | undefined> => {
    let next = 0
    for await (const event of client.edit(one)) {
      if (event.kind === 'resumed') resumed++
      if (event.kind === 'step' && event.step !== next++) outOfOrder++
      if (event.kind === 'step' && --stepsUntilKill <= 0) kill()
      if (event.kind === 'completed') return event
      if (event.kind === 'failed') report.note(`an edit failed: ${event.error.status}: ${event.error.message}`)
    }
    return undefined
  })
  const over = Promise.all(ends)
  let killed = 0
  for (; killed < kills; killed++) {
    const due = new Promise<'due'>((resolve) => (kill = () => resolve('due')))
    stepsUntilKill = random.below((edits * parameters.steps) / (2 * kills))
    if ((await Promise.race([due, over])) !== 'due') break
    await server.kill()
    server = await ServerProcess.start({ port })
  }
  const results = await over
  client.close()
  await server.kill()
  report.figure('times that the server was killed', killed, '', { exactly: kills })
  report.figure('times that an edit went on after it', resumed, '', { atLeast: kills })
  report.figure(`of ${edits} edits, completed`, results.filter((one) => one !== undefined).length, '', {
    exactly: edits,
  })
  report.figure('steps that repeated or were skipped', outOfOrder, '', { exactly: 0 })
  const latents = results.map((one) => one?.point.latent)
  report.figure('edits with the bits of solo runs', await countSoloBits(requests, latents), '', { exactly: edits })
}
