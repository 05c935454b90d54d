// CLIP's tokenizer: text → byte-level BPE ids, start and end marks around them, zeros behind.
// Follows simple_tokenizer.py of https://github.com/openai/CLIP (without ftfy, which only repairs mis-decoded text).

import { gunzipSync } from 'node:zlib'
import { decodeHTML } from 'entities'
import { FlexitError } from '../errors.js'

export interface Tokens {
  /** [contextLength] start, text, end, zeros. The end has the highest id, so that CLIP finds it by an arg max. */
  readonly ids: number[]
  /** Tokens of the whole text with its two marks, also of what was cut off. */
  readonly tokens: number
  /** The text did not fit: its tail has no influence. */
  readonly truncated: boolean
}

const start = '<|startoftext|>'
const end = '<|endoftext|>'
/** 256 bytes, the same at the end of a word, and the two marks: what a vocabulary holds besides its merges. */
const symbolsWithoutMerge = 2 * 256 + 2

/** The text is lower case by then; long s is the one character that CLIP's ignore-case flag still lets stand for s. */
const pattern =
  /<\|[sſ]tartoftext\|>|<\|endoftext\|>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu

const maximumVocabularyBytes = 64 * 2 ** 20
const maximumCachedWords = 10_000
const maximumCachedLength = 64

/** Ids for texts under one vocabulary. Texts of any length take time in proportion to it (times its logarithm). */
export class Tokenizer {
  readonly vocabularySize: number
  readonly #ids: ReadonlyMap<string, number>
  /** "left right" → place in the list of merges. */
  readonly #ranks: ReadonlyMap<string, number>
  readonly #cache = new Map<string, readonly number[]>()

  private constructor(merges: readonly string[], vocabularySize: number) {
    const vocabulary = [
      ...byteSymbols.vocabulary,
      ...byteSymbols.vocabulary.map((symbol) => `${symbol}</w>`),
      ...merges.map((merge) => merge.replace(' ', '')),
      start,
      end,
    ]
    this.vocabularySize = vocabularySize
    this.#ids = new Map(vocabulary.map((symbol, id) => [symbol, id]))
    this.#ranks = new Map(merges.map((merge, rank) => [merge, rank]))
  }

  /**
   * Read a list of merges, plain or gzip: a `#version` line, then "left right" per line, best first. Lines beyond
   * `vocabularySize` are left out, as CLIP does with its own file. `where` names the file in messages.
   * Errors: DATA_LOSS (not such a list, or too short for the vocabulary).
   */
  static fromMerges(bytes: Uint8Array, vocabularySize: number, where: string): Tokenizer {
    const lines = readText(bytes, where).split('\n')
    const first = lines[0]!.includes('#version') ? 1 : 0
    const count = vocabularySize - symbolsWithoutMerge
    const merges = lines.slice(first, first + Math.max(count, 0)).map((line) => line.trim().split(/\s+/).join(' '))
    const wrong = merges.findIndex((merge) => !/^[^ ]+ [^ ]+$/.test(merge))
    const atEnd = wrong >= 0 && lines.slice(first + wrong).every((line) => line.trim() === '')
    if (wrong >= 0 && !atEnd) throw mergesError(where, `line ${first + wrong + 1} is not two symbols`)
    const found = atEnd ? wrong : merges.length
    if (found !== count) {
      throw mergesError(where, `${found} merges, but a vocabulary of ${vocabularySize} symbols needs ${count}`)
    }
    return new Tokenizer(merges, vocabularySize)
  }

  /**
   * The ids of `text`, cut or filled to `contextLength`. A text that is too long keeps its end mark in the last place and
   * is reported as `truncated`. As in CLIP, marks typed into a text are marks: the text tower reads at the first end
   * mark, so whatever follows a typed `<|endoftext|>` has no influence.
   */
  encode(text: string, contextLength: number): Tokens {
    const all = [this.#ids.get(start)!]
    for (const [word] of clean(text).matchAll(pattern)) for (const id of this.#word(word)) all.push(id)
    all.push(this.#ids.get(end)!)
    const ids = Array.from({ length: contextLength }, (_, at) => all[at] ?? 0)
    const truncated = all.length > contextLength
    if (truncated) ids[contextLength - 1] = this.#ids.get(end)!
    return { ids, tokens: all.length, truncated }
  }

  #word(word: string): readonly number[] {
    if (word === start || word === end) return [this.#ids.get(word)!]
    const cached = this.#cache.get(word)
    if (cached) return cached
    const ids = this.#merge(word).map((symbol) => this.#ids.get(symbol)!)
    if (word.length <= maximumCachedLength) {
      if (this.#cache.size >= maximumCachedWords) this.#cache.clear()
      this.#cache.set(word, ids)
    }
    return ids
  }

  /**
   * The symbols of a word after all merges. CLIP goes in rounds: the best pair of the word is merged wherever it stands,
   * left to right, then the pairs are looked at afresh. Here the pairs wait in a heap ordered by (rank, position), and
   * those that a round makes join it after the round.
   */
  #merge(word: string): string[] {
    const symbols = Array.from(Buffer.from(word), (byte) => byteSymbols.ofByte[byte]!)
    const length = symbols.length
    symbols.push(`${symbols.pop()!}</w>`)
    const previous = symbols.map((_, at) => at - 1)
    const next = symbols.map((_, at) => at + 1)
    const rankAt = (at: number) =>
      at >= 0 && next[at]! < length ? this.#ranks.get(`${symbols[at]!} ${symbols[next[at]!]!}`) : undefined

    const heap: number[] = []
    const offer = (at: number) => {
      const rank = rankAt(at)
      if (rank !== undefined) push(heap, rank * length + at)
    }
    for (let at = 0; at < length - 1; at++) offer(at)
    while (heap.length > 0) {
      const round = Math.floor(heap[0]! / length)
      const changed: number[] = []
      while (heap.length > 0 && Math.floor(heap[0]! / length) === round) {
        const at = pop(heap) % length
        if (symbols[at] === '' || rankAt(at) !== round) continue
        const right = next[at]!
        symbols[at] = symbols[at]! + symbols[right]!
        symbols[right] = ''
        next[at] = next[right]!
        if (next[at] < length) previous[next[at]] = at
        changed.push(previous[at]!, at)
      }
      for (const at of changed) if (symbols[at] !== '') offer(at)
    }
    return symbols.filter((symbol) => symbol !== '')
  }
}

/** Byte → printable character; the vocabulary begins with the printable bytes, the others follow as U+0100 and up. */
const byteSymbols = (() => {
  const isPrintable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173)
  const bytes = Array.from({ length: 256 }, (_, byte) => byte)
  const others = bytes.filter((byte) => !isPrintable(byte))
  const ofByte = bytes.map((byte) => String.fromCharCode(isPrintable(byte) ? byte : 256 + others.indexOf(byte)))
  return { ofByte, vocabulary: [...bytes.filter(isPrintable), ...others].map((byte) => ofByte[byte]!) }
})()

/** CLIP's cleaning. It also collapses whitespace, which changes nothing: the pattern never matches any. */
function clean(text: string): string {
  return strip(unescape(unescape(text))).toLowerCase()
}

/** Python's str.strip: beyond Unicode's whitespace it takes the four separators U+001C to U+001F. */
function strip(text: string): string {
  const isSpace = (at: number) => {
    const code = text.charCodeAt(at)
    return (code >= 0x1c && code <= 0x1f) || /\p{White_Space}/u.test(text.charAt(at))
  }
  let from = 0
  let to = text.length
  while (from < to && isSpace(from)) from++
  while (to > from && isSpace(to - 1)) to--
  return text.slice(from, to)
}

/** Python's html.unescape, which drops numeric references to what HTML does not allow, where browsers keep them. */
function unescape(text: string): string {
  return text.replace(/&(?:#(?:[xX]([0-9a-fA-F]+)|([0-9]+));?|[^\t\n\f <&#;]{1,32};?)/gu, (reference, hex, decimal) => {
    const code = typeof hex === 'string' ? parseInt(hex, 16) : typeof decimal === 'string' ? parseInt(decimal, 10) : NaN
    return isForbidden(code) ? '' : decodeHTML(reference)
  })
}

function isForbidden(code: number): boolean {
  const isControl = (code >= 0x1 && code <= 0x8) || code === 0xb || (code >= 0xe && code <= 0x1f) || code === 0x7f
  const isNoncharacter = (code >= 0xfdd0 && code <= 0xfdef) || (code <= 0x10ffff && (code & 0xfffe) === 0xfffe)
  return isControl || isNoncharacter
}

function readText(bytes: Uint8Array, where: string): string {
  try {
    const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b
    const plain = isGzip ? gunzipSync(bytes, { maxOutputLength: maximumVocabularyBytes }) : bytes
    return new TextDecoder('utf-8', { fatal: true }).decode(plain)
  } catch (error) {
    throw mergesError(where, error instanceof Error ? error.message : String(error), error)
  }
}

function mergesError(where: string, what: string, cause?: unknown): FlexitError {
  return new FlexitError({
    code: 'DATA_LOSS',
    message: `${where} is not a list of BPE merges that fits: ${what}`,
    cure: 'Restore the file, or correct tokenizer.vocabularySize in pack.json.',
    cause,
  })
}

function push(heap: number[], key: number): void {
  let at = heap.push(key) - 1
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (heap[parent]! <= key) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = key
}

/** Remove the least key of a heap that is not empty. */
function pop(heap: number[]): number {
  const least = heap[0]!
  const key = heap.pop()!
  if (heap.length === 0) return least
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++
    if (heap[child]! >= key) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = key
  return least
}
