// The cases of the cluster benchmark: what each shows, and where it is.
// What must be shown is said in each file.

import type { Report } from '../kit/report.js'
import { balance } from './cases/balance.js'
import { connectionAge } from './cases/connection-age.js'
import { kill } from './cases/kill.js'
import { partition } from './cases/partition.js'
import { peers } from './cases/peers.js'
import { restart } from './cases/restart.js'
import { rolling } from './cases/rolling.js'
import { slowStart } from './cases/slow-start.js'

export interface ClusterCase {
  readonly name: string
  readonly shows: string
  /** `folder` is for its files. */
  readonly run: (report: Report, folder: string) => Promise<void>
}

export const cases: readonly ClusterCase[] = [
  {
    name: 'rolling-haproxy',
    shows: 'three replicas restarted one after the other under 100 edits, behind HAProxy',
    run: rolling('haproxy'),
  },
  { name: 'rolling-nginx', shows: 'the same behind nginx', run: rolling('nginx') },
  { name: 'rolling-direct', shows: 'the same with a client that has the addresses', run: rolling('direct') },
  {
    name: 'kill-haproxy',
    shows: 'kill -9 of a random replica every few seconds under 100 edits, behind HAProxy',
    run: kill('haproxy'),
  },
  { name: 'kill-nginx', shows: 'the same behind nginx', run: kill('nginx') },
  {
    name: 'partition-direct',
    shows: 'a replica whose packets are dropped, and that is healed, with a client that has the addresses',
    run: partition('direct'),
  },
  { name: 'partition-haproxy', shows: 'the same behind HAProxy', run: partition('haproxy') },
  {
    name: 'balance-haproxy',
    shows: '300 edits of 1 to 64 steps over three replicas: leastconn',
    run: balance('haproxy'),
  },
  { name: 'balance-nginx', shows: 'the same: least_conn', run: balance('nginx') },
  { name: 'balance-list', shows: 'the same: a list of addresses in the client library', run: balance('list') },
  { name: 'balance-weighted', shows: 'the same: weighted_round_robin on reported load', run: balance('weighted') },
  { name: 'connection-age', shows: 'long edits move to a replica that joins, without loss', run: connectionAge },
  { name: 'slow-start', shows: 'readiness, NOT_SERVING at SIGTERM, the end of a replica', run: slowStart },
  { name: 'restart', shows: 'the only server killed, and started again at its address', run: restart },
  { name: 'peers', shows: 'TLS at HAProxy and nginx; the client in Python through HAProxy', run: peers },
]
