// A machine of its own for a process, as far as its processor goes: a control group with a share of a core that it cannot
// exceed. Without it replicas on one machine take time from each other, and which of them does more is the kernel's choice.

import { existsSync } from 'node:fs'
import { mkdir, rmdir, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

const root = '/sys/fs/cgroup'
const periodUs = 10_000

export class CpuShare {
  readonly #folder: string

  private constructor(folder: string) {
    this.#folder = folder
  }

  /**
   * For the process `pid`, its threads, and what it starts; `cores` 0.5 is half of one. Errors: those of the files, where
   * control groups are not ours to make.
   */
  static async create(name: string, cores: number, pid: number): Promise<CpuShare> {
    const quotaUs = Math.round(cores * periodUs)
    const unified = existsSync(`${root}/cgroup.controllers`)
    const folder = `${root}/${unified ? '' : 'cpu/'}flexit-${process.pid}-${name}`
    await mkdir(folder)
    const share = new CpuShare(folder)
    try {
      if (unified) await writeFile(`${folder}/cpu.max`, `${quotaUs} ${periodUs}`)
      else {
        await writeFile(`${folder}/cpu.cfs_period_us`, String(periodUs))
        await writeFile(`${folder}/cpu.cfs_quota_us`, String(quotaUs))
      }
      await writeFile(`${folder}/cgroup.procs`, String(pid))
      return share
    } catch (error) {
      await share.remove()
      throw error
    }
  }

  /** Once its processes have ended: the kernel needs a moment to forget them. */
  async remove(): Promise<void> {
    for (let tries = 40; tries > 0 && existsSync(this.#folder); tries--) {
      await rmdir(this.#folder).catch(() => sleep(50))
    }
  }
}
