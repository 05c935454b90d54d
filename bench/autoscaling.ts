// A day's load through the scaler of the manifests, next to fixed fleets: how long edits wait, and what it costs.
//   node dist/bench/autoscaling.js [--start 180] [--launch 40] [--sample 15] [--replicas 1,10,100,1000]
// --start: seconds until a replica takes edits. --launch, --sample: ms of a step, for a batch and for each edit in it.
// --replicas: of how many the day's mean is, at a full batch. Step times are assumptions until a GPU was measured.

import { parseArgs } from 'node:util'
import { Fleet, type FleetSettings, stepRate } from './autoscaling/fleet.js'
import { Scaler, type ScalerSettings, readMaxWaiting, readScaler, wantedWork } from './autoscaling/scaler.js'
import { Random } from './kit/random.js'

const manifests = new URL('../../deploy/k8s/', import.meta.url)
const dayS = 86_400
const syncS = 15
const meanSteps = 160
/** Edits of a batch with which a device is counted as used to the full. */
const fullBatch = 8
const seed = 11

/** Arrivals of each second of a day: a curve with its peak in the afternoon, and six bursts of 1.5 to 3 times as many. */
function dayOfArrivals(meanPerSecond: number): Uint16Array {
  const random = new Random(seed)
  const bursts = Array.from({ length: 6 }, () => ({
    fromS: random.below(dayS),
    lengthS: 300 + random.below(600),
    times: 1.5 + 1.5 * random.next(),
  }))
  const arrivals = new Uint16Array(dayS)
  for (let s = 0; s < dayS; s++) {
    const curve = 1 - 0.75 * Math.cos((2 * Math.PI * (s - 7_200)) / dayS)
    const burst = Math.max(
      1,
      ...bursts.map(({ fromS, lengthS, times }) => (s >= fromS && s < fromS + lengthS ? times : 1)),
    )
    const rate = meanPerSecond * curve * burst
    for (let at = random.exponential(1 / rate); at < 1; at += random.exponential(1 / rate)) arrivals[s]!++
  }
  return arrivals
}

interface Day {
  readonly queueP99: number
  readonly editP50: number
  readonly editP99: number
  readonly hours: number
  readonly most: number
  readonly handedOver: number
}

/** Run a day with a fixed number of replicas, or with a scaler that begins with `replicas`. */
function run(arrivals: Uint16Array, settings: FleetSettings, replicas: number, scaling?: ScalerSettings): Day {
  const random = new Random(seed + 1)
  const fleet = new Fleet(settings, random, replicas)
  const scaler = scaling && new Scaler(scaling)
  let most = replicas
  // Prometheus has seen what was a scrape ago.
  let scraped = 0
  for (let s = 0; s < dayS; s++) {
    if (scaler !== undefined && s % syncS === 0) {
      fleet.resize(scaler.decide(wantedWork(scraped, 1), fleet.size, s), s)
      scraped = fleet.edits
      most = Math.max(most, fleet.size)
    }
    for (let i = arrivals[s]!; i > 0; i--) fleet.arrive(Math.ceil(meanSteps * (0.25 + 1.5 * random.next())), s)
    fleet.tick(s)
  }
  const { queueS, editS, handedOver, replicaSeconds } = fleet
  const [editP50, editP99] = [editS.percentile(0.5), editS.percentile(0.99)]
  return { queueP99: queueS.percentile(0.99), editP50, editP99, hours: replicaSeconds / 3600, most, handedOver }
}

function print(name: string, { queueP99, editP50, editP99, hours, most, handedOver }: Day): void {
  const columns = [queueP99, editP50, editP99].map((value) => `${value} s`.padStart(8))
  const cost = hours.toFixed(0).padStart(8)
  console.log(
    `  ${name.padEnd(28)}${columns.join('')}${cost}${String(most).padStart(8)}${String(handedOver).padStart(10)}`,
  )
}

const { values } = parseArgs({
  options: {
    start: { type: 'string', default: '180' },
    launch: { type: 'string', default: '40' },
    sample: { type: 'string', default: '15' },
    replicas: { type: 'string', default: '1,10,100,1000' },
  },
})
const settings = {
  startS: Number(values.start),
  launchMs: Number(values.launch),
  sampleMs: Number(values.sample),
  maxWaiting: readMaxWaiting(new URL('base/kustomization.yaml', manifests)),
}
const scaling = readScaler(new URL('components/autoscaling/scaled-object.yaml', manifests))
const capacity = fullBatch * stepRate(settings, fullBatch)
console.log(
  `target ${scaling.target} edits a device; a device takes ${capacity.toFixed(0)} steps/s in batches of ${fullBatch}`,
)
console.log(`a replica starts in ${settings.startS} s; edits of ${meanSteps} steps on average; 24 hours with 6 bursts`)
for (const mean of values.replicas.split(',').map(Number)) {
  const arrivals = dayOfArrivals((mean * capacity) / meanSteps)
  const count = arrivals.reduce((sum, one) => sum + one, 0)
  const quarters = Array.from({ length: dayS / 900 }, (_, i) => arrivals.subarray(900 * i, 900 * (i + 1)))
  const busiest = Math.max(...quarters.map((quarter) => quarter.reduce((sum, one) => sum + one, 0) / 900))
  const peak = Math.ceil((busiest * meanSteps) / capacity)
  console.log(`\nmean load ${mean} replicas, ${count} edits; the busiest quarter of an hour needs ${peak}`)
  console.log(`  ${''.padEnd(28)}   queue     edit    edit    hours    most  moved on`)
  console.log(`  ${''.padEnd(28)}     p99      p50     p99`)
  const limits = { ...scaling, least: Math.min(scaling.least, peak), most: Math.max(scaling.most, 4 * mean) }
  const first = Math.max(
    limits.least,
    Math.ceil(((arrivals.subarray(0, 900).reduce((a, b) => a + b) / 900) * meanSteps) / capacity),
  )
  const scaled = run(arrivals, settings, first, limits)
  print('scaled', scaled)
  const fixed = run(arrivals, settings, peak)
  print('fixed, for the peak', fixed)
  const even = Math.max(1, Math.round(scaled.hours / 24))
  print("fixed, at the scaled's cost", run(arrivals, settings, even))
  console.log(`  hours of the scaled fleet over those for the peak: ${(scaled.hours / fixed.hours).toFixed(2)}`)
}
