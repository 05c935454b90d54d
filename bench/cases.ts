// The cases of `flexit bench`: what each shows, and where it is. The list only; a case is loaded when it is run.
// What must be shown is said in each file.

import type { Progress } from '../src/cli/progress.js'
import type { Report } from './kit/report.js'

export interface BenchCase {
  readonly name: string
  readonly shows: string
  /** About, on two cores. */
  readonly seconds: number
  readonly load: () => Promise<{ readonly run: (report: Report, progress: Progress) => Promise<void> }>
}

export const benchCases: readonly BenchCase[] = [
  {
    name: 'bits',
    shows: '64 edits over 16 connections and two devices have the bits of solo runs',
    seconds: 60,
    load: () => import('./cases/bits.js'),
  },
  {
    name: 'overhead',
    shows: 'steps per second through the server, of the bare engine',
    seconds: 170,
    load: () => import('./cases/overhead.js'),
  },
  {
    name: 'batching',
    shows: 'steps per second with batching, of those without; which limit was chosen, and why',
    seconds: 180,
    load: () => import('./cases/batching.js'),
  },
  {
    name: 'cancel',
    shows: '1,000 cancels free their slots at the next step, and touch no other edit',
    seconds: 90,
    load: () => import('./cases/cancel.js'),
  },
  {
    name: 'slow-readers',
    shows: 'readers that stop, trickle, vanish or do not acknowledge cost bounded memory and nobody time',
    seconds: 110,
    load: () => import('./cases/slow-readers.js'),
  },
  {
    name: 'overload',
    shows: 'ten times as many edits as can be made: goodput, how fast the others are refused, none is lost',
    seconds: 60,
    load: () => import('./cases/overload.js'),
  },
  {
    name: 'crash',
    shows: 'workers killed at random during 100 edits: all end with the same bits',
    seconds: 90,
    load: () => import('./cases/crash.js'),
  },
  {
    name: 'restart',
    shows: 'the server killed and started again: the client library goes on, to the same bits',
    seconds: 60,
    load: () => import('./cases/restart.js'),
  },
  {
    name: 'hostile',
    shows: 'thousands of malformed and malicious requests: a status for each, no crash, no effect on others',
    seconds: 200,
    load: () => import('./cases/hostile.js'),
  },
  {
    name: 'soak',
    shows: '2,000 short edits with a connection each: growth of memory, handles and threads',
    seconds: 250,
    load: () => import('./cases/soak.js'),
  },
  {
    name: 'simulation',
    shows: "the scheduler's decision with 64 devices and up to 100,000 waiting edits, simulated",
    seconds: 40,
    load: () => import('./cases/simulation.js'),
  },
]
