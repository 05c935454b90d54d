// Tables of queries: what is read of them, and how each mistake is told.
// CSV is RFC 4180, with what spreadsheets make of it.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { readQueries } from '../../src/cli/batch/queries.js'
import { newFolder } from './support.js'

async function tableOf(content: string | Uint8Array): Promise<string> {
  const path = join(newFolder(), 'queries.csv')
  await writeFile(path, content)
  return path
}

test('rows, with texts in quotes, a byte order mark, CRLF and empty lines', async (t) => {
  const path = await tableOf(
    '\uFEFFfile,source,target\r\n"a, b.png","a ""red"" apple, ripe", tangerine \r\n\r\nc.png,"two\nlines",Äpfel\r\n',
  )
  const { queries, ignored } = await readQueries(path)
  t.deepEqual(ignored, [])
  t.deepEqual(
    queries.map(({ line, image, source, target, parameters }) => [line, image, source, target, parameters]),
    [
      [2, 'a, b.png', 'a "red" apple, ripe', 'tangerine', {}],
      [5, 'c.png', 'two\nlines', 'Äpfel', {}],
    ],
  )
  t.is(queries[0]!.imagePath, join(path, '..', 'a, b.png'))
  t.is((await readQueries(path, '/pictures')).queries[0]!.imagePath, '/pictures/a, b.png')
})

test('columns of any name for the picture, parameters in any spelling, and others that are ignored', async (t) => {
  const path = await tableOf(
    ',path,source,source_id,target,lambda_p,Learning-Rate,networks,views\n7,a.png,cat,3,dog,0.5,,"rn,vit",0\n',
  )
  const { queries, ignored, columns } = await readQueries(path)
  t.deepEqual(ignored, ['source_id'])
  t.deepEqual(queries[0]!.parameters, { lambdaP: 0.5, networks: ['rn', 'vit'], views: 0 })
  t.is(columns.get('lambdaP'), 'lambda_p')
})

test('all mistakes of the rows are told at once, by line and column', async (t) => {
  const rows = ['a.png,cat,dog,10', ',cat,,10', 'a.png,cat,dog,many', 'a.png,cat,dog,10,more', 'a.png,cat']
  const path = await tableOf(['file,source,target,steps', ...rows, ''].join('\n'))
  const error = await t.throwsAsync(readQueries(path), { code: 'INVALID_ARGUMENT' })
  t.deepEqual(error.message.split('\n').slice(1), [
    '  line 3, column file: it is empty',
    '  line 3, column target: it is empty',
    '  line 4, column steps: "many": It is not a whole number from 1 to 10000.',
    '  line 5: it has 5 columns, the header has 4; texts with commas need quotes',
    '  line 6: it has 2 columns, the header has 4; texts with commas need quotes',
  ])
  const many = await tableOf(['file,source,target', ...Array.from({ length: 50 }, () => 'a.png,,x')].join('\n'))
  t.regex((await t.throwsAsync(readQueries(many))).message, /has 50 mistakes[^]* and 30 more$/)
})

test('a parameter in a row is what its option takes', async (t) => {
  const path = await tableOf('file,source,target,views,seed,lambda_p\na,b,c,1e2,0.5,1e-2\nd,e,f,64,2,3\n')
  const error = await t.throwsAsync(readQueries(path), { code: 'INVALID_ARGUMENT' })
  t.deepEqual(error.message.split('\n').slice(1), [
    '  line 2, column views: "1e2": It is not a whole number from 0 to 64.',
    '  line 2, column seed: "0.5": It is not a whole number from 0 to 9007199254740991.',
  ])
  const written = await tableOf('file,source,target,views,lambda_p\na,b,c,64.0,1.0\nd,e,f,,\n')
  const { queries } = await readQueries(written)
  t.deepEqual(
    queries.map(({ parameters }) => parameters),
    [{ views: 64, lambdaP: 1 }, {}],
    'as pandas writes whole numbers',
  )
})

const broken: readonly (readonly [title: string, content: string | Uint8Array, message: RegExp])[] = [
  ['empty', '', /is not a table of comma-separated values: it is empty/],
  ['only a header', 'file,source,target\n', /has no queries/],
  [
    'semicolons',
    'file;source;target\na;b;c\n',
    /has no column image \(or file, or path\); it has "file;source;target"/,
  ],
  ['no target', 'file,source\na,b\n', /has no column target; it has "file", "source"/],
  ['two pictures', 'file,path,source,target\na,b,c,d\n', /the columns file and path mean the same/],
  ['a name twice', 'file,source,target,note,note\na,b,c,d,e\n', /two of its columns are called "note"/],
  ['an open quote', 'file,source,target\na,"b,c\n', /is not a table of .*line 2/],
  ['Latin-1', Buffer.from('file,source,target\na,b,c\nd,\xc4pfel,e\n', 'latin1'), /line 3: it is not UTF-8/],
  ['UTF-16', Buffer.from('\uFEFFfile,source,target\na,b,c\n', 'utf16le'), /line 1: it is not UTF-8/],
]

for (const [title, content, message] of broken) {
  test(`a table that is wrong: ${title}`, async (t) => {
    await t.throwsAsync(readQueries(await tableOf(content)), { code: 'INVALID_ARGUMENT', message })
  })
}

test('a table that is not there', async (t) => {
  await t.throwsAsync(readQueries('nope.csv'), { code: 'NOT_FOUND', message: /nope\.csv/ })
})
