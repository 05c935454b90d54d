// The ways from a client to replicas: through a load balancer, or balanced by the client itself.

import { type ConnectOptions, type FlexitClient, connect } from '../../src/client/client.js'
import { type ProxyKind, withProxy } from './proxy.js'
import type { Replica } from './replica.js'

export type Way = ProxyKind | 'direct' | 'list' | 'weighted'

/** Run `work` with a client of all replicas. `direct`: all as addresses of one name; `list`: a list of servers. */
export async function withClient<T>(
  way: Way,
  replicas: readonly Replica[],
  folder: string,
  options: ConnectOptions,
  work: (client: FlexitClient) => Promise<T>,
): Promise<T> {
  const addresses = replicas.map(({ address }) => address)
  const together = `ipv4:${addresses.join(',')}`
  const using = async (servers: string | readonly string[], more: ConnectOptions = {}) => {
    const client = connect(servers, { ...options, ...more })
    try {
      return await work(client)
    } finally {
      client.close()
    }
  }
  if (way === 'direct') return using(together)
  if (way === 'list') return using(addresses)
  if (way === 'weighted') return using(together, { balancing: 'weighted_round_robin' })
  return withProxy({ kind: way, replicas: addresses, folder }, (address) => using(address))
}
