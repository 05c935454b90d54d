// What grpc-js tells nobody, or has no option for: that the connection of a call is to end, by its age; to end a call without
// what waits to be read; how long its request may be. The lowest layer of a call and its HTTP/2 stream know, and can.
// https://nodejs.org/api/http2.html#class-http2stream

import { type ServerHttp2Stream, constants } from 'node:http2'
import type { ServerOptions } from './options.js'

/** Layers of a call, each of which holds the next one under one of two names; the lowest has the rest. */
interface Layer {
  readonly call?: Layer
  readonly nextCall?: Layer
  readonly stream?: ServerHttp2Stream
  readonly decoder?: { maxReadMessageLength: number }
  maxReceiveMessageSize?: number
}

function lowest(call: object): Layer | undefined {
  let layer: Layer | undefined = call
  while (layer !== undefined && layer.stream === undefined) layer = layer.call ?? layer.nextCall
  return layer
}

/** The client was told to open no more streams on the connection of this call of a grpc-js server. */
function isConnectionEnding(call: object): boolean {
  return lowest(call)?.stream?.session?.closed ?? false
}

/** End a call at once, with all that was written and not read: a status would wait behind it. */
export function dropCall(call: object): void {
  lowest(call)?.stream?.close(constants.NGHTTP2_CANCEL)
}

/** A request of more than `bytes`, as it comes or decompressed, ends its call with RESOURCE_EXHAUSTED. */
export function limitRequest(call: object, bytes: number): void {
  const layer = lowest(call)
  if (layer?.decoder === undefined) return
  layer.decoder.maxReadMessageLength = bytes
  layer.maxReceiveMessageSize = bytes
}

/**
 * Call `leave` once, within the grace of the connection of a call that has reached its age: for edits to be handed back,
 * to go on elsewhere without a step lost. Returns how to stop.
 */
export function onConnectionEnding(
  call: object,
  { maxConnectionAgeMs, maxConnectionAgeGraceMs: graceMs }: ServerOptions,
  leave: () => void,
): () => void {
  if (maxConnectionAgeMs === 0) return () => undefined
  let timer = setInterval(
    () => {
      if (!isConnectionEnding(call)) return
      clearInterval(timer)
      // Edits may end by themselves; what is left goes not all at once, and before the end.
      timer = setTimeout(leave, graceMs * (0.4 + 0.3 * Math.random())).unref()
    },
    Math.min(Math.max(graceMs / 10, 50), 1000),
  ).unref()
  return () => clearTimeout(timer)
}
