// `flexit serve`, and `flexit edit --server`: what a server says and how it ends; edits that are saved and gone on with.
// The servers of edits are fake but for one, which must give the bits of this machine.

import { existsSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { readEditFile } from '../../src/engine/edit-file.js'
import { Pack } from '../../src/engine/pack/pack.js'
import { copyPack } from '../support/packs.js'
import { pack, serve } from '../support-server/start.js'
import { flexit, flexitEach, newFolder, parseLines, quick, root, strawberry, texts } from './support.js'

const edit = (...args: string[]) => ['edit', strawberry, ...texts, '--save-every', '4', ...args]

test('an edit on a server is saved on its way, and goes on from its file to the same bits', async (t) => {
  const { address, scheduler } = await serve(t)
  const cwd = newFolder()
  const on = ['--server', address, '--seed', '9']
  const files = (name: string) => ['--out', `${name}.png`, '--latents', `${name}.safetensors`]
  const film = (name: string) => ['--filmstrip', `${name}-film.png`]
  const whole = await flexit(edit(...on, '--steps', '12', ...files('whole'), ...film('whole'), '--json'), { cwd })
  t.is(whole.code, 0, whole.stderr)
  const lines = parseLines(whole.stdout)
  t.is(lines.length, 13)
  t.like(lines[0], { event: 'step', step: 0 })
  t.like(lines.at(-1), { event: 'result', step: 12 })
  const { state, snapshots, packName } = readEditFile(join(cwd, 'whole.safetensors'))
  t.like(state, { step: 12, source: 'strawberry', target: 'grapes' })
  t.is(state.parameters.seed, 9)
  t.is(packName, 'tiny')
  t.deepEqual([...snapshots.keys()], [4, 8, 12])

  const part = await flexit(edit(...on, '--steps', '8', ...files('part')), { cwd })
  t.is(part.code, 0)
  t.regex(part.stderr, /loss −\d/, 'with the minus of local edits')
  const resume = ['edit', '--resume', 'part.safetensors', '--server', address, '--save-every', '4', '--steps', '12']
  const resumed = await flexit([...resume, '--out', 'part.png', ...film('part')], { cwd })
  t.is(resumed.code, 0, resumed.stderr)
  t.true(scheduler.edits.some(({ first, state }) => first === 8 && state.step === 12))
  for (const file of ['.png', '.safetensors', '-film.png']) {
    const bytes = await readFile(join(cwd, `part${file}`))
    t.true(bytes.equals(await readFile(join(cwd, `whole${file}`))), file)
  }
  const fewer = await flexit([...resume.slice(0, -1), '3'], { cwd })
  t.is(fewer.code, 2)
  t.regex(fewer.stderr, /resumeFrom\.step is 12, but the edit has 3 steps/)
})

test('Ctrl-C stops an edit on its server, saves it, and says how to go on', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 3 })
  const cwd = newFolder()
  const result = await flexit(edit('--server', address, '--steps', '9', '--json', '--quiet'), {
    cwd,
    onOutput: (child, stdout) => {
      if (parseLines(stdout).length === 3 && !child.killed) child.kill('SIGINT')
    },
  })
  t.is(result.code, 130)
  const rescue = 'flexit-out/strawberry-grapes.safetensors'
  t.like(parseLines(result.stdout).at(-1), { event: 'stopped', step: 3, files: { latents: rescue } })
  t.true(result.stderr.includes(`npx flexit edit --resume ${rescue} `))
  t.true(result.stderr.includes(`--server ${address}`))
  t.is(readEditFile(join(cwd, rescue)).state.step, 3)
  await scheduler.edits[0]!.ended
  t.is(scheduler.edits[0]!.state.step, 3)
})

test('an edit whose result cannot be written is saved in the working folder, and goes on from there', async (t) => {
  const { address, scheduler } = await serve(t, { allowed: 3 })
  const cwd = newFolder()
  const files = ['--out', 'out/a.png', '--latents', 'out/b.safetensors', '--save-every', '100']
  const result = await flexit(edit('--server', address, '--steps', '5', ...files, '--json', '--quiet'), {
    cwd,
    onOutput: (_, stdout) => {
      if (parseLines(stdout).length !== 3) return
      void writeFile(join(cwd, 'out'), '').then(() => scheduler.allow(1000))
    },
  })
  t.is(result.code, 2)
  t.like(parseLines(result.stdout).at(-1), { event: 'failed', step: 5, files: { latents: 'a.safetensors' } })
  const { message, cure } = parseLines(result.stderr).at(-1)!['error'] as Record<'message' | 'cure', string>
  t.is(message, 'cannot write out/a.png: a part of the path is not a folder; the edit is saved in a.safetensors')
  t.true(cure.startsWith('Check the path.\nThen go on with: npx flexit edit --resume a.safetensors --out out/a.png '))
  t.is(readEditFile(join(cwd, 'a.safetensors')).state.step, 5)

  await rm(join(cwd, 'out'))
  const again = ['edit', '--resume', 'a.safetensors', '--server', address, '--out', 'out/a.png', '--quiet']
  t.deepEqual(await flexit(again, { cwd }), { code: 0, stdout: '', stderr: '' })
  t.true(existsSync(join(cwd, 'out', 'a.png')))
})

test('what cannot be on a server is refused, and what fails there is told', async (t) => {
  const { address } = await serve(t)
  const cwd = newFolder()
  const cases: [args: string[], code: number, message: RegExp][] = [
    [['--threads', '1'], 2, /--threads cannot be given with --server/],
    [['--pack', 'imagenet'], 1, /the server has no pack "imagenet"; it has tiny/],
    [['--target', 'explode'], 1, /error: it exploded/],
  ]
  for (const [args, code, message] of cases) {
    const result = await flexit(edit('--server', address, ...args), { cwd })
    t.is(result.code, code, result.stderr)
    t.regex(result.stderr, message)
  }
  t.is((await flexit(edit('--server', 'nowhere'), { cwd })).code, 2)
})

test('a server that wants a token, or speaks TLS, is told from one that is not there', async (t) => {
  const cwd = newFolder()
  const tls = (name: string) => join(root, 'test', 'fixtures', 'tls', name)
  const authFile = join(cwd, 'tokens.json')
  await writeFile(authFile, JSON.stringify({ tokens: [{ tenant: 'a', token: 'a-token-that-is-known' }] }))
  const certificates = { tlsCert: tls('a.pem'), tlsKey: tls('a.key') }
  const [{ address }, secret, mutual] = [
    await serve(t, { options: { authFile } }),
    await serve(t, { options: certificates }),
    await serve(t, { options: { ...certificates, tlsClientCa: tls('client.pem') } }),
  ]
  const at = ({ server }: typeof secret) => ['--server', `localhost:${server.port}`]
  const cases: [args: string[], message: RegExp][] = [
    [['--server', address], /the call has no token\nGive --token, or set FLEXIT_TOKEN/],
    [at(secret), /cannot be reached: (?!.*No connection).*\nCheck its address.*--tls/],
    [
      ['--server', address.replace('127.0.0.1', 'localhost'), '--tls'],
      /cannot be reached: .*\nCheck that it speaks TLS/,
    ],
    [[...at(secret), '--tls'], /cannot be reached: .*certificate.*\nCheck that it speaks TLS/],
    [
      [...at(mutual), '--tls-ca', tls('a.pem')],
      /cannot be reached: .*certificate required.*\nCheck that it speaks TLS/,
    ],
  ]
  const results = await flexitEach(
    cases.map(([args]) => edit(...args)),
    cwd,
  )
  for (const [i, { code, stderr }] of results.entries()) {
    t.is(code, 1, stderr)
    t.regex(stderr, cases[i]![1])
  }
  const shown = ['--tls-ca', tls('a.pem'), '--tls-cert', tls('client.pem'), '--tls-key', tls('client.key')]
  t.is((await flexit(edit(...at(mutual), ...shown, '--steps', '2'), { cwd })).code, 0)
})

test('the configuration of a server is printed, and its mistakes are told', async (t) => {
  const printed = await flexit(['serve', '--print-config', '--port', '0', '--max-steps', '77'])
  t.is(printed.code, 0, printed.stderr)
  t.like(JSON.parse(printed.stdout) as object, { port: 0, maxSteps: 77 })
  const wrong = await flexit(['serve', '--port', 'many', '--max-steps', '0', '--device', 'gpu'])
  t.is(wrong.code, 2)
  for (const word of [/port/, /max-steps|maxSteps/, /gpu/]) t.regex(wrong.stderr, word)
  t.is((await flexit(['serve', '--config', 'nope.json'])).code, 1)
})

test('a server says where it listens and what it has, makes the edits of this machine, and ends at SIGTERM', async (t) => {
  const cwd = newFolder()
  const small = [...quick.slice(0, -2), '--steps', '3', '--seed', '2', '--quiet']
  const made: Promise<{ code: number | null; stderr: string }>[] = []
  const serving = ['serve', '--port', '0', '--metrics-port', '0', '--log-level', 'silent', '--threads', '1']
  const result = await flexit(serving, {
    cwd,
    onOutput: (child, stdout) => {
      const port = /^try it:.*--server 127\.0\.0\.1:(\d+)$/m.exec(stdout)?.[1]
      if (port === undefined || made.length > 0) return
      const remote = flexit(edit(...small, '--out', 'remote.png', '--server', `127.0.0.1:${port}`), { cwd })
      made.push(remote)
      void remote.finally(() => child.kill('SIGTERM'))
    },
  })
  t.is(result.code, 0, result.stderr)
  t.regex(result.stdout, /^flexit \S+ listens on 127\.0\.0\.1:\d+ \(plain text, no tokens asked for\); metrics on http/)
  t.regex(result.stdout, /^devices: cpu$/m)
  t.regex(result.stdout, /^packs?: +tiny, 64 × 64 pixels, networks rn, vit$/m)
  t.deepEqual(await made[0], { code: 0, stdout: '', stderr: '' })
  const here = ['--threads', '1', '--out', 'local.png', '--latents', 'local.safetensors']
  t.is((await flexit(edit(...small, ...here), { cwd })).code, 0)
  t.true((await readFile(join(cwd, 'remote.png'))).equals(await readFile(join(cwd, 'local.png'))))
})

test('a server that has not begun to listen is ended at once', async (t) => {
  const serving = ['serve', '--port', '0', '--metrics-port', '0', '--threads', '1']
  const { signal, stdout, stderr } = await flexit(serving, {
    onError: (child) => {
      if (!child.killed) child.kill('SIGTERM')
    },
  })
  t.is(signal, 'SIGTERM', stderr)
  t.is(stdout, '')
  t.regex(stderr, /stopped before the server listened/)
})

test('a saved edit goes on with its pack, which need not be the first of the server', async (t) => {
  const cwd = newFolder()
  const other = await Pack.open(await copyPack(cwd, 'other'))
  t.teardown(() => other.close())
  const { address } = await serve(t, { packs: [other, pack] })
  const on = ['--server', address, '--latents', 'a.safetensors', '--out', 'a.png']
  t.is((await flexit(edit('--pack', 'tiny', '--steps', '4', ...on), { cwd })).code, 0)
  const resumed = await flexit(['edit', '--resume', 'a.safetensors', '--steps', '6', '--quiet', ...on], { cwd })
  t.deepEqual([resumed.code, resumed.stderr], [0, ''])
  t.like(readEditFile(join(cwd, 'a.safetensors')), { packName: 'tiny', state: { step: 6 } })
})
