// What GetServerInfo answers: packs, devices, limits, versions.
// The message is ServerInfo of proto/flexit/v1/editor.proto.

import type { Pack } from '../engine/pack/pack.js'
import { resolveParameters } from '../engine/parameters.js'
import { variableShape } from '../engine/step-graph.js'
import { encodeParameters } from '../proto/codec.js'
import type { PackInfo, ServerInfo, ServerLimits } from '../proto/messages.js'
import type { ServerOptions } from './options.js'

export function serverInfo(
  packs: readonly Pack[],
  options: ServerOptions,
  version: string,
): Omit<ServerInfo, 'draining'> {
  return { version, packs: packs.map(packInfo), devices: options.device, limits: limitsOf(options) }
}

function packInfo(pack: Pack): PackInfo {
  const { name, image } = pack.manifest
  return {
    name,
    digest: pack.digest,
    imageSize: image.size,
    imageBackground: image.background,
    networks: [...pack.networkNames],
    latentShape: [...variableShape(pack, 'latent')],
    defaultParameters: encodeParameters(resolveParameters({}, pack)),
  }
}

/** Limits for one tenant are those in all where they are not given. */
function limitsOf(options: ServerOptions): ServerLimits {
  const { maxEdits, maxWaitingEdits = maxEdits, maxWaitingBytes } = options
  return {
    imageBytes: options.maxImageBytes,
    imagePixels: options.maxImagePixels,
    textLength: options.maxTextLength,
    steps: options.maxSteps,
    editsPerStream: options.maxEditsPerStream,
    windowBytes: options.maxWindowBytes,
    disconnectGraceMs: options.disconnectGraceMs,
    edits: maxEdits,
    editsPerTenant: options.maxEditsPerTenant ?? maxEdits,
    waitingEdits: maxWaitingEdits,
    waitingEditsPerTenant: options.maxWaitingEditsPerTenant ?? maxWaitingEdits,
    waitingBytes: maxWaitingBytes,
    waitingBytesPerTenant: options.maxWaitingBytesPerTenant ?? maxWaitingBytes,
    batch: options.maxBatch,
    idleStreamMs: options.idleStreamMs,
  }
}
