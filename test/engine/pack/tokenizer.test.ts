// Tests of the tokenizer: ids of the original implementation, cutting, long words, and lists of merges that are broken.
// Fixtures: test/fixtures/tokenizer/make.py; real vocabulary and golden ids in shared/, where a checkout has it.

import test from 'ava'
import { existsSync, readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { FlexitError } from '../../../src/engine/errors.js'
import { Tokenizer } from '../../../src/engine/pack/tokenizer.js'

interface Case {
  readonly text: string
  readonly ids: number[]
}

const root = new URL('../../../../', import.meta.url)
const shared = new URL('../shared/', root)
const readCases = (url: URL) => JSON.parse(readFileSync(url, 'utf8')) as Case[]
const mergesFile = readFileSync(new URL('models/tiny/merges.txt', root))
const tiny = Tokenizer.fromMerges(mergesFile, 2000, 'merges.txt')
const startId = 1998
const endId = 1999

test('ids of the training recipe, with the tiny vocabulary', (t) => {
  const cases = readCases(new URL('test/fixtures/tokenizer/cases.json', root))
  t.true(cases.length >= 40)
  for (const { text, ids } of cases) {
    t.deepEqual(tiny.encode(text, ids.length), { ids, tokens: ids.length, truncated: false }, JSON.stringify(text))
  }
})

test('ids of the original tokenizer, with the real vocabulary', (t) => {
  const vocabulary = new URL('data/bpe_simple_vocab_16e6.txt.gz', shared)
  const golden = new URL('golden/clip_tokens.json', shared)
  if (!existsSync(vocabulary) || !existsSync(golden)) {
    t.log('skipped: no shared/ beside the repository')
    t.pass()
    return
  }
  const tokenizer = Tokenizer.fromMerges(readFileSync(vocabulary), 49408, 'vocabulary')
  for (const { text, ids } of readCases(golden)) t.deepEqual(tokenizer.encode(text, ids.length).ids, ids, text)
})

test('the ids are filled with zeros behind the end mark', (t) => {
  const { ids, tokens, truncated } = tiny.encode('', 5)
  t.deepEqual(ids, [startId, endId, 0, 0, 0])
  t.is(tokens, 2)
  t.false(truncated)
})

test('a text that is too long keeps its end mark and says so', (t) => {
  const whole = tiny.encode('a red apple and a green apple', 77)
  const cut = tiny.encode('a red apple and a green apple', 5)
  t.deepEqual(cut.ids, [...whole.ids.slice(0, 4), endId])
  t.true(cut.truncated)
  t.is(cut.tokens, whole.tokens)
  t.false(tiny.encode('a red apple and a green apple', whole.tokens).truncated)
  t.true(tiny.encode('a red apple and a green apple', whole.tokens - 1).truncated)
})

test('marks typed into a text are marks, in any case, as in CLIP', (t) => {
  const { ids } = tiny.encode('red <|EndOfText|> apple <|startoftext|>', 8)
  const [red, apple] = [tiny.encode('red', 3).ids[1], tiny.encode('apple', 3).ids[1]]
  t.deepEqual(ids, [startId, red, endId, apple, startId, endId, 0, 0])
})

test('a typed end mark that is cut off leaves one end mark, in the last place', (t) => {
  const { ids } = tiny.encode(`${'a '.repeat(20)}<|endoftext|>`, 8)
  t.is(ids.indexOf(endId), 7)
})

test('merges go in rounds: the best pair everywhere, left to right, before pairs that the round made', (t) => {
  const merges = ['abc a', 'a bc', 'b c', 'd d']
  const tokenizer = Tokenizer.fromMerges(Buffer.from(`#version: 1\n${merges.join('\n')}\n`), 514 + 4, 'merges')
  const merged = (text: string) => tokenizer.encode(text, 8).ids.flatMap((id) => merges[id - 512] ?? [])
  // One pair at a time would make "abc a" of the first three letters and the fourth.
  t.deepEqual(merged('abcabcx'), ['a bc', 'a bc'])
  t.deepEqual(merged('dddx'), ['d d'])
})

test('a word of a million letters is encoded whole', (t) => {
  const letters = 1_000_000
  const { ids, tokens, truncated } = tiny.encode('apple'.repeat(letters / 5), 16)
  t.true(truncated)
  t.true(tokens > letters / 20 && tokens < letters)
  t.is(ids[15], endId)
})

test('the cache of words is no part of the result', (t) => {
  const tokenizer = Tokenizer.fromMerges(mergesFile, 2000, 'merges.txt')
  const before = tokenizer.encode('strawberry', 16)
  for (let i = 0; i < 12_000; i++) tokenizer.encode(`w${String.fromCodePoint(0x4e00 + i)}`, 4)
  t.deepEqual(tokenizer.encode('strawberry', 16), before)
})

test('lone surrogates are read as U+FFFD', (t) => {
  t.deepEqual(tiny.encode('a \ud83c b', 16), tiny.encode('a \ufffd b', 16))
})

test('plain, gzip, without its version line, with CRLF: the same tokenizer', (t) => {
  const text = mergesFile.toString()
  const expected = tiny.encode('a rosé strawberry', 16)
  const same = (bytes: Uint8Array) =>
    t.deepEqual(Tokenizer.fromMerges(bytes, 2000, 'm').encode('a rosé strawberry', 16), expected)
  same(gzipSync(text))
  same(Buffer.from(text.slice(text.indexOf('\n') + 1)))
  same(Buffer.from(text.replaceAll('\n', '\r\n')))
})

test('merges beyond the vocabulary are left out', (t) => {
  const small = Tokenizer.fromMerges(mergesFile, 514 + 10, 'm')
  t.true(small.encode('strawberry', 16).tokens > tiny.encode('strawberry', 16).tokens)
  t.is(small.encode('', 2).ids[1], 514 + 9)
})

const broken: [name: string, bytes: Uint8Array, size: number, message: RegExp][] = [
  ['an empty file', Buffer.alloc(0), 2000, /0 merges, but .* 2000 symbols needs 1486/],
  ['too few merges', mergesFile, 49408, /1486 merges, but .* 49408 symbols needs 48894/],
  ['a vocabulary smaller than the bytes', mergesFile, 100, /0 merges, but .* 100 symbols/],
  ['three symbols in a line', Buffer.from('#version\na b\na b c\n'), 516, /line 3 is not two symbols/],
  ['an empty line in the middle', Buffer.from('#version\na b\n\nc d\n'), 517, /line 3 is not two symbols/],
  ['a web page', Buffer.from('<!doctype html>\n<title>x</title>\n'), 516, /line 2 is not two symbols/],
  ['bytes that are no UTF-8', Buffer.from([0x61, 0x20, 0xff, 0x0a]), 515, /encoded data was not valid/],
  ['gzip cut short', gzipSync(mergesFile).subarray(0, 200), 2000, /unexpected end of file/],
]
for (const [name, bytes, size, message] of broken) {
  test(`a list of merges that is ${name} is refused`, (t) => {
    const error = t.throws(() => Tokenizer.fromMerges(bytes, size, 'FOLDER/merges.txt'), { instanceOf: FlexitError })
    t.is(error.code, 'DATA_LOSS')
    t.regex(error.message, message)
    t.true(error.message.startsWith('FOLDER/merges.txt '))
  })
}
