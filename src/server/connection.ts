// What grpc-js tells nobody, or cannot do: that the connection of a call is to end, by its age, and ending a call without what
// waits to be read. The HTTP/2 stream below it can. https://nodejs.org/api/http2.html#class-http2stream

import { type ServerHttp2Stream, constants } from 'node:http2'
import type { ServerOptions } from './options.js'

/** Layers of a call, each of which holds the next one under one of these names. */
interface Layer {
  readonly call?: Layer
  readonly nextCall?: Layer
  readonly stream?: ServerHttp2Stream
}

function streamOf(call: object): ServerHttp2Stream | undefined {
  let layer: Layer | undefined = call
  while (layer !== undefined && layer.stream === undefined) layer = layer.call ?? layer.nextCall
  return layer?.stream
}

/** The client was told to open no more streams on the connection of this call of a grpc-js server. */
function isConnectionEnding(call: object): boolean {
  return streamOf(call)?.session?.closed ?? false
}

/** End a call at once, with all that was written and not read: a status would wait behind it. */
export function dropCall(call: object): void {
  streamOf(call)?.close(constants.NGHTTP2_CANCEL)
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
