// Opens a weight file by what is in it, whatever it is called: safetensors, or PyTorch in any of its three formats.
// Follows the first bytes of each format; what downloads leave in a file's place is told by name.

import { damaged, openBytes, readBytes } from './byte-source.js'
import { openPyTorch } from './pytorch.js'
import { openSafetensors } from './safetensors.js'
import type { TensorSource } from './tensor-source.js'

type Content = 'safetensors' | 'pytorch'

/** Enough for the mark of a tar archive, at byte 257. */
const SNIFFED_BYTES = 512

/** What DataParallel puts before the names of all tensors. */
const WRAPPER = 'module.'

/**
 * Open a weight file; its values are read when asked for, and nothing in it is run. Names are those of the network, also
 * where it was saved inside of DataParallel.
 * Errors: NOT_FOUND, DATA_LOSS for what is empty, truncated, altered, hostile or something else.
 */
export async function openCheckpoint(path: string): Promise<TensorSource> {
  return unwrapped(sniff(path) === 'safetensors' ? openSafetensors(path) : await openPyTorch(path))
}

function unwrapped(source: TensorSource): TensorSource {
  const entries = [...source.tensors]
  if (!entries.every(([name]) => name.startsWith(WRAPPER))) return source
  return {
    path: source.path,
    tensors: new Map(entries.map(([name, info]) => [name.slice(WRAPPER.length), info])),
    read: (name) => source.read(WRAPPER + name),
    sha256: () => source.sha256(),
    close: () => source.close(),
  }
}

function sniff(path: string): Content {
  const source = openBytes(path)
  try {
    const { size } = source
    const bytes = Buffer.from(readBytes(source, 0, Math.min(size, SNIFFED_BYTES)).buffer)
    if (bytes.length === 0) throw damaged(path, 'the file is empty', 'Download it again.')
    if (bytes.length < 9) throw damaged(path, `the file is truncated: it has ${size} bytes`, 'Download it again.')
    if (bytes[8] === 0x7b && bytes.readUInt32LE(4) === 0) return 'safetensors'
    if (bytes.toString('latin1', 0, 4) === 'PK\x03\x04') return 'pytorch'
    if (bytes[0] === 0x80 && bytes[1]! <= 5) return 'pytorch'
    throw damaged(path, ...explain(bytes))
  } finally {
    source.close()
  }
}

/** What a file is that holds no weights, and what helps. */
function explain(bytes: Buffer): [what: string, cure: string] {
  const text = bytes.toString('latin1').trimStart().toLowerCase()
  if (/^(<!doctype html|<html|<\?xml|<!--)/.test(text))
    return ['this is a web page, so the download went wrong', 'Open the address in a browser, then download again.']
  if (text.startsWith('version https://git-lfs'))
    return ['this is a Git LFS pointer, not the file itself', 'Run `git lfs pull`, or download the file itself.']
  if (/^[[{]/.test(text))
    return ['this is JSON text, perhaps the error of a server', 'Look into it and download again.']
  if (bytes.toString('latin1', 257, 262) === 'ustar')
    return ['this is a tar archive', 'Unpack it and name the weight file in it.']
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return ['this is compressed with gzip', 'Unpack it with gunzip.']
  return [
    'this is neither safetensors nor a PyTorch checkpoint',
    'Check that it is the right file and that its download was complete.',
  ]
}
