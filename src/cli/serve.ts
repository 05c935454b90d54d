// `flexit serve`: edits as a service, over gRPC.
// Options come from flags, the environment and a file: src/server/options.ts.

import { readFileSync } from 'node:fs'
import { setLogger } from '@grpc/grpc-js'
import { Command, Option } from 'commander'
import { formatDevice, parseDevice } from '../engine/runtime.js'
import { launchServer, type LaunchedServer } from '../server/launch.js'
import { type Logger, createLogger, grpcLogger } from '../server/logger.js'
import {
  type OptionName,
  type ServerOptions,
  flagName,
  optionNames,
  resolveOptions,
  serverOptionsSchema,
} from '../server/options.js'
import { emptyMetrics } from '../server/scheduler-metrics.js'
import { endable, interruptible } from './interruption.js'
import { type Progress, createProgress } from './progress.js'

const notes = `
Each option can be given as a variable (FLEXIT_MAX_STEPS) and in the file of --config ("maxSteps") too; flags come
before variables, variables before the file; FLEXIT_… that are no option are refused. SIGTERM and Ctrl-C: the server
ends within --drain-ms, all but its last quarter (2 to 5 s) for edits to finish; the others are handed back to their
clients. A second one ends it at once. SIGHUP: it reads certificates and tokens again now, not only within seconds.

The file of --auth-file: { "tokens": [{ "tenant": "web", "token": "…" }, …], "tenants": { "web": { "weight": 4 } } }; a token of
16 characters or more, or its "sha256"; "priority" of a tenant: the highest of its edits.

Examples:
  flexit serve
  flexit serve --device cuda:0 --device cuda:1 --pack imagenet --host 0.0.0.0
  flexit serve --tls-cert cert.pem --tls-key key.pem --auth-file tokens.json --print-config`

export function serveCommand(): Command {
  const command = new Command('serve')
    .summary('serve edits over gRPC')
    .description('Serve edits over gRPC, with metrics over HTTP.')
    .option('--config <file>', 'JSON file of options')
    .option('--print-config', 'print the options as they would be used, as such a file, and end')
    .option('--print-metrics', 'print the metrics that there are, as their port shows them, and end')
  for (const name of optionNames) command.addOption(toFlag(name))
  return command.addHelpText('after', notes).action((flags: Readonly<Record<string, unknown>>) => serve(flags))
}

/** Values are checked together, later: commander would stop at the first that is wrong. */
function toFlag(name: OptionName): Option {
  const schema = serverOptionsSchema.shape[name]
  const { data: usual } = schema.safeParse(undefined)
  const words = `${schema.description ?? ''}${usual === undefined ? '' : ` (default: ${String(usual)})`}`
  const option = new Option(`--${flagName(name)} <value>`, words)
  return name === 'device' || name === 'pack'
    ? option.argParser((value, before?: string[]) => [...(before ?? []), value])
    : option
}

async function serve({
  config,
  printConfig,
  printMetrics,
  ...flags
}: Readonly<Record<string, unknown>>): Promise<void> {
  const file = typeof config === 'string' ? config : undefined
  const options = resolveOptions({ flags, environment: process.env, file })
  if (printConfig === true) {
    process.stdout.write(`${JSON.stringify(options, undefined, 2)}\n`)
    return
  }
  const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  if (printMetrics === true) {
    process.stdout.write(await emptyMetrics(version))
    return
  }
  // A full disk under it must not end the server.
  process.stderr.on('error', () => undefined)
  const logger = createLogger(options.logLevel)
  setLogger(grpcLogger(logger))
  const progress = process.stderr.isTTY ? createProgress({ quiet: false }) : loggedProgress(logger)
  const onProgress = (doing: string) => progress.doing(doing)
  const farewell = () => {
    progress.end()
    progress.say('stopped before the server listened')
  }
  // While it starts there is nothing to read again.
  process.on('SIGHUP', () => undefined)
  const server = await endable(farewell, () => launchServer(options, { version, onProgress }))
  process.on('SIGHUP', () => server.reload())
  progress.end()
  await interruptible(async (signal) => {
    process.stdout.write(`${greeting(server, options, version)}\n`)
    if (!signal.aborted) await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    progress.say('going away: edits may finish, no new ones are taken (once more to end at once)')
    await server.drain()
  })
}

/** Where nobody looks on, stderr is a log, whose lines are all of one kind. */
function loggedProgress(logger: Logger): Pick<Progress, 'say' | 'doing' | 'end'> {
  return { say: (line) => logger.info(line), doing: (what) => logger.info(what), end: () => undefined }
}

/** Where it listens, what it has, how to try it. */
function greeting({ port, metricsPort, packs, devices }: LaunchedServer, options: ServerOptions, version: string) {
  const { host, tlsCert, tlsClientCa, authFile } = options
  const security = [
    tlsClientCa !== undefined ? 'mutual TLS' : tlsCert !== undefined ? 'TLS' : 'plain text',
    authFile !== undefined ? 'tokens asked for' : 'no tokens asked for',
  ]
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  const shown = tlsClientCa === undefined ? ' --tls' : ' --tls-cert CERT --tls-key KEY'
  const secure = [tlsCert === undefined ? '' : shown, authFile === undefined ? '' : ' --token TOKEN'].join('')
  return [
    `flexit ${version} listens on ${host}:${port} (${security.join(', ')}); metrics on http://${host}:${metricsPort}/metrics`,
    `devices: ${devices.map((device) => formatDevice(parseDevice(device))).join(', ')}`,
    ...packs.map(({ manifest: { name, image }, networkNames }, i) => {
      const title = i === 0 ? 'pack:   ' : '        '
      return `${title} ${name}, ${image.size} × ${image.size} pixels, networks ${networkNames.join(', ')}`
    }),
    `try it:  npx flexit edit PICTURE --source "what is there" --target "what it becomes" --server ${reachable}:${port}${secure}`,
  ].join('\n')
}
