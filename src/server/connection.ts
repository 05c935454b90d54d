// What grpc-js tells nobody: that the connection of a call is to end, by its age. The HTTP/2 session below it knows.
// https://nodejs.org/api/http2.html#http2sessionclosed

import type { Http2Session } from 'node:http2'

/** Layers of a call, each of which holds the next one under one of these names. */
interface Layer {
  readonly call?: Layer
  readonly nextCall?: Layer
  readonly stream?: { readonly session?: Http2Session }
}

/** The client was told to open no more streams on the connection of this call of a grpc-js server. */
export function isConnectionEnding(call: object): boolean {
  let layer: Layer | undefined = call
  while (layer !== undefined && layer.stream === undefined) layer = layer.call ?? layer.nextCall
  return layer?.stream?.session?.closed ?? false
}
