// Queries and real pictures from tables and folders: this project's columns, and those of the paper's release.
// https://github.com/facebookresearch/SemanticImageTranslation, dataset/queries.csv

import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import type { FlexitError } from '../../src/engine/errors.js'
import { formatCsv, parseCsv } from '../../src/evaluation/csv.js'
import { type ReadQueriesOptions, readQueries } from '../../src/evaluation/queries.js'
import { findReferences, retrieve } from '../../src/evaluation/references.js'
import { withFolder } from '../support/graphs.js'

const labels = ['cat', 'dog', 'fox', 'car']

/** What `readQueries` makes of a text. */
async function read(text: string, options: Partial<ReadQueriesOptions> = {}, files: Record<string, string> = {}) {
  return withFolder(async (folder) => {
    for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content)
    await writeFile(join(folder, 'queries.csv'), text)
    return readQueries(join(folder, 'queries.csv'), { labels, ...options })
  })
}

const released = `,path,source,source_id,target,target_id,is_test
12,n1/a.JPEG,cat,0,dog,1,False
7,n2/b.JPEG,"dog, hound",1,cat,0,True
3,n3/c.JPEG,car,3,fox,2,True
`

test('tables are UTF-8, and labels have a column of their own', async (t) => {
  const latin = Buffer.from('image,source,target\na.png,caf\xe9,dog\n', 'latin1')
  await withFolder(async (folder) => {
    await writeFile(join(folder, 'q.csv'), latin)
    await t.throwsAsync(readQueries(join(folder, 'q.csv'), { labels }), { message: /q\.csv, line 2: it is not UTF-8/ })
    await writeFile(join(folder, 'q.csv'), 'image,source,target\na.png,cat,dog\n')
    const labelFile = join(folder, 'q.csv')
    const error = await t.throwsAsync<FlexitError>(readQueries(join(folder, 'q.csv'), { labels, labelFile }))
    t.is(error.cure, 'Labels have the column label.')
  })
})

test('tables are read as RFC 4180 has them, and written so that they read back', (t) => {
  const text = '\uFEFFa,b\r\n"1,5","say ""x"""\r\n\r\n,"two\nlines"\r\n'
  const { columns, rows } = parseCsv(text, 'x')
  t.deepEqual(columns, ['a', 'b'])
  const expected = [
    { a: '1,5', b: 'say "x"' },
    { a: '', b: 'two\nlines' },
  ]
  t.deepEqual(rows, expected)
  t.deepEqual(parseCsv(formatCsv(expected), 'x').rows, expected)
  t.is(formatCsv(parseCsv('b,a,""\n1,2,3\n', 'x').rows), 'b,a,\n1,2,3\n', 'in their order')
  t.is(formatCsv([{ x: 0.1 + 0.2, y: undefined }]), 'x,y\n0.30000000000000004,\n')
  const spaced = [{ a: ' x', b: 'y\t' }]
  t.deepEqual(parseCsv(formatCsv(spaced), 'x').rows, spaced)
  for (const bad of ['', 'a,a\n1,2', 'a,b\n1', 'a\n"1']) {
    t.throws(() => parseCsv(bad, 'bad.csv'), { message: /^bad\.csv is not a table/ }, bad)
  }
})

test('spaces around fields and columns without a name are as if they were not there', (t) => {
  const { columns, rows } = parseCsv(', image , a b ,,\n7, x.png ," 1 ",,\n', 'x')
  t.deepEqual(columns, ['', 'image', 'a b', '', ''])
  t.deepEqual(rows, [{ '': '7', image: 'x.png', 'a b': ' 1 ' }])
  t.throws(() => parseCsv('a,b\n\n1,2\n1\n', 'x'), { message: /line 4: it has 1 columns, the header has 2/ })
})

test('queries with labels, in the order of the file, judged among the classes of labels.csv', async (t) => {
  const text = 'image,source,target,cluster,vendor\nv/x.png,cat,dog,pets,v\nv/y.png,dog,cat,pets,v\n'
  const { queries, classes, digest } = await read(
    text,
    {},
    { 'labels.csv': 'label,cluster\nfox,pets\ndog,pets\ncat,pets' },
  )
  t.deepEqual(queries, [
    { id: 0, image: 'v/x.png', source: 'cat', target: 'dog', sourceClass: 0, targetClass: 1, cluster: 'pets' },
    { id: 1, image: 'v/y.png', source: 'dog', target: 'cat', sourceClass: 1, targetClass: 0, cluster: 'pets' },
  ])
  t.deepEqual([...classes], [[0, 'cat'], [1, 'dog'], [2, 'fox']]) // prettier-ignore
  t.not((await read(text)).digest, digest)
  t.deepEqual([...(await read(text)).classes.keys()], [0, 1])
})

test('the release’s queries: ids, halves, and clusters from the queries themselves', async (t) => {
  const { queries, classes, folders } = await read(released, { labels: undefined })
  t.deepEqual(
    queries.map(({ id, image, targetClass, cluster }) => [id, image, targetClass, cluster]),
    [
      [7, 'n2/b.JPEG', 0, 'cat …'],
      [3, 'n3/c.JPEG', 2, 'fox …'],
    ],
  )
  t.is(classes.size, 4)
  t.deepEqual(folders.get(0), ['n1'])
  const ids = async (options: Partial<ReadQueriesOptions>) =>
    (await read(released, options)).queries.map(({ id }) => id)
  t.deepEqual([await ids({ split: 'dev' }), await ids({ split: 'all' })], [[12], [12, 7, 3]])
  t.deepEqual([await ids({ half: 'dev' }), await ids({ half: 'dev', split: 'test' })], [[12], [7, 3]])
  const numbers = released.replaceAll('False', '0.0').replaceAll('True', '1')
  t.deepEqual((await read(numbers)).queries.map(({ id }) => id), [7, 3]) // prettier-ignore
  t.is((await read('image,source,target\nx.png,cat,dog', { half: 'dev' })).queries.length, 1)
})

test('ids go before labels, each role for itself', async (t) => {
  const text = 'image,source,target,target_id\nx.png,cat,a dog,1\n'
  const { queries } = await read(text)
  t.like(queries[0], { sourceClass: 0, target: 'a dog', targetClass: 1 })
  await t.throwsAsync(read(text, { labels: undefined }), { message: /has no source_id, and the judge does not name/ })
})

test('queries that are wrong are refused, naming what', async (t) => {
  const header = 'image,source,target\n'
  const cases: readonly (readonly [text: string, message: RegExp, options?: Partial<ReadQueriesOptions>])[] = [
    ['a,b\n1,2', /no column image or path; it has a, b/],
    ['image,source\nx.png,cat', /no column target/],
    [`${header}x.png,cat,unicorn`, /the target of row 1 of .*"unicorn", is not a class of the judge/],
    [`${header}/etc/passwd,cat,dog`, /picture of row 1 .* not a path inside/],
    [`${header}a/../../b.png,cat,dog`, /not a path inside/],
    [`${header},cat,dog`, /not a path inside/],
    [header, /has no queries/],
    [`${header}x.png, ,dog`, /row 1 of .*: the source text is empty/],
    [`${header}x.png,cat,${'dog'.repeat(2000)}`, /row 1 of .*: the target text has 6000 characters/],
    [`${header}x.png,cat,dog`, /several outputs of the judge are named "dog"/, { labels: [...labels, 'dog'] }],
    [released.replace('False', 'maybe'), /is_test of row 1 of .* is "maybe"/],
    [released.replace('True', ''), /is_test of row 2 of .* is ""/, { split: 'all' }],
    [`${header}x.png,cat,dog`, /the judge does not name its outputs/, { labels: undefined }],
    [`${header}x.png,cat,dog`, /no column is_test/, { split: 'dev' }],
    [released.replace('7,', '12,'), /two queries .* the same id/],
    [released.replace('12,', 'x,'), /the id of row 1 .* is "x"/],
    [released.replace(',3,fox', ',99,fox'), /the source of row 3 .*"99", is not a class/],
    [released.replaceAll('True', 'False'), /has no queries of that half/],
  ]
  for (const [text, message, options] of cases) {
    await t.throwsAsync(read(text, options), { message }, text)
  }
  const few = { 'labels.csv': 'label\ncat' }
  await t.throwsAsync(read(`${header}x.png,cat,dog`, {}, few), {
    message: /"dog" is a target but not among the labels/,
  })
  await withFolder(async (folder) => {
    const labelFile = join(folder, 'few.csv')
    await writeFile(labelFile, 'label\ncat')
    const message = /the judge does not name its outputs, so that the labels of .*few\.csv mean nothing/
    await t.throwsAsync(read(released, { labels: undefined, labelFile }), { message })
  })
  const foreign = { 'labels.csv': 'label\nunicorn' }
  await t.throwsAsync(read(`${header}x.png,cat,dog`, {}, foreign), { message: /"unicorn" of .* is not a class/ })
})

test('real pictures from a table: validation ones to retrieve, the others for the statistics', async (t) => {
  const set = await read('image,source,target\nx.png,cat,dog\n')
  await withFolder(async (folder) => {
    const table = join(folder, 'references.csv')
    await writeFile(
      table,
      'image,label,split\na.png,dog,train\nb.png,dog,validation\nc.png,cat,train\nd.png,bird,train',
    )
    const found = await findReferences(set, { images: 'images', references: table })
    t.deepEqual([...found.statistics], [[0, ['images/c.png']], [1, ['images/a.png']]]) // prettier-ignore
    t.deepEqual([...found.retrieval], [[1, ['images/b.png']]])
    t.is(retrieve(found, set.queries[0]!, 3), 'images/b.png')

    // Rows of other classes, and of none, count no more than with labels.
    await writeFile(table, 'path,class_id\na.png,1\nb.png,1\nd.png,3\ne.png,')
    const byId = await findReferences(set, { images: 'images', references: table })
    t.deepEqual([...byId.statistics], [[1, ['images/a.png', 'images/b.png']]])
    t.deepEqual(byId.retrieval, byId.statistics)
    const choices = Array.from({ length: 20 }, (_, id) => retrieve(byId, { ...set.queries[0]!, id }, 0))
    t.is(new Set(choices).size, 2)

    // One that no statistics and no answer is made of may be anything.
    await writeFile(table, 'image,label\na.png,dog\n../b.png,bird')
    t.is((await findReferences(set, { images: 'images', references: table })).statistics.size, 1)
    await writeFile(table, 'image,label\na.png,dog\n../b.png,dog')
    await t.throwsAsync(findReferences(set, { images: 'images', references: table }), {
      message: /the picture of row 2 of .* is "\.\.\/b\.png", not a path inside/,
    })
    await writeFile(table, 'image,label,split\nb.png,dog,validation')
    await t.throwsAsync(findReferences(set, { images: 'images', references: table }), {
      message: /no real picture of "dog" for statistics/,
    })
    await writeFile(table, 'image,label\nc.png,cat')
    await t.throwsAsync(findReferences(set, { images: 'images', references: table }), {
      message: /no real picture of "dog" for statistics/,
    })
    await writeFile(table, 'file\nc.png')
    await t.throwsAsync(findReferences(set, { images: 'images', references: table }), {
      message: /has the columns file/,
    })
    await t.throwsAsync(findReferences(set, { images: 'images', references: join(folder, 'none') }), {
      message: /no such file or folder/,
    })
  })
})

test('real pictures from folders, as of ImageNet', async (t) => {
  const set = await read(released.replace('3,n3/c.JPEG,car,3,fox,2', '3,n1/c.JPEG,cat,0,dog,1'))
  await withFolder(async (folder) => {
    for (const path of ['val/n1', 'val/n2', 'train/n1', 'train/n2']) {
      await mkdir(join(folder, path), { recursive: true })
      await writeFile(join(folder, path, 'z.JPEG'), '')
      await writeFile(join(folder, path, 'y.JPEG'), '')
    }
    const others = ['.DS_Store', '._y.JPEG', 'list.txt', 'Thumbs.db']
    for (const name of others) await writeFile(join(folder, 'train/n2', name), '')
    await mkdir(join(folder, 'train/n2/old.JPEG'))
    const options = { images: join(folder, 'val'), references: join(folder, 'train') }
    const { statistics, retrieval } = await findReferences(set, options)
    t.deepEqual(statistics.get(1), [join(folder, 'train/n2/y.JPEG'), join(folder, 'train/n2/z.JPEG')])
    t.deepEqual(retrieval.get(0), [join(folder, 'val/n1/y.JPEG'), join(folder, 'val/n1/z.JPEG')])

    const { queries } = set
    const unknown = { ...set, queries: [...queries, { ...queries[0]!, id: 99, target: 'fox', targetClass: 2 }] }
    const message = 'no query has "fox" as its source, so that the folder of its pictures is not known'
    await t.throwsAsync(findReferences(unknown, options), { message })
  })
})

test('a class may have several folders of real pictures, but no folder several classes', async (t) => {
  const apart = await read('image,source,target\na/x.png,cat,dog\nb/x.png,cat,dog\nc/x.png,dog,cat\n')
  const shared = await read('image,source,target\na/x.png,cat,dog\na/y.png,dog,cat\n')
  await withFolder(async (folder) => {
    for (const name of ['a', 'b', 'c']) {
      await mkdir(join(folder, name))
      await writeFile(join(folder, name, 'x.png'), '')
    }
    const options = { images: folder, references: folder }
    const { statistics } = await findReferences(apart, options)
    t.deepEqual(statistics.get(0), [join(folder, 'a/x.png'), join(folder, 'b/x.png')])
    const error = await t.throwsAsync<FlexitError>(findReferences(shared, options))
    t.regex(error.message, /pictures of "cat" and of "dog" in the same folder a,/)
    t.regex(error.cure ?? '', /Name a CSV/)
  })
})
