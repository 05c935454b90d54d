"""From an empty folder to the pack and its judge.

usage: train.py FOLDER [--from PACK] [--stages a,b,…] [--threads N] [--scale X]

Stages, in order: render, queries, tokenizer, vgg, autoencoder, clip-rn, clip-vit, judge, trunk, export. What is there is not
made again; a stage that was stopped goes on at its last checkpoint. --from continues the networks of a pack (as the
embedded one was made, see README.md): tokenizer, VGG and autoencoder are taken over, the CLIPs trained further.
--scale multiplies all numbers of steps (0.01: a rehearsal of minutes).
"""
import argparse
import os
import shutil
import subprocess

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = {'vgg': 1500, 'autoencoder': 5000, 'clip-rn': 9000, 'clip-vit': 9000, 'judge': 4400, 'trunk': 600}
# Parts after the first: steps, peak rate, share of perturbed batches, share of disguised pictures.
ROBUST = {
    'clip-rn': ((2400, 1e-3, 0.5, 0.5), (600, 5e-4, 0.6, 0.2), (800, 6e-4, 0.6, 0.0)),
    'clip-vit': ((2400, 1e-3, 0.4, 0.5), (600, 5e-4, 0.5, 0.2), (800, 6e-4, 0.5, 0.0)),
}
STAGES = ('render', 'queries', 'tokenizer', *STEPS, 'export')


def take_over(pack, weights):
    """The networks that are not trained further, as weights of this run."""
    from safetensors_io import load
    shutil.copy(f'{pack}/merges.txt', weights)
    for name in ('autoencoder', 'vgg16'):
        torch.save(load(f'{pack}/{name}.safetensors'), f'{weights}/{name}.pt')


def check_scale(file, scale):
    """What a rehearsal left would pass for trained networks."""
    if os.path.exists(file):
        before = float(open(file).read())
        if before != scale:
            raise SystemExit(f'{os.path.dirname(file)} was begun with --scale {before:g}. Give the same, or another folder.')
    with open(file, 'w') as f:
        f.write(f'{scale:g}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--from', dest='start')
    parser.add_argument('--stages', default=','.join(STAGES))
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--scale', type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stages = options.stages.split(',')
    weights, drawings = f'{options.folder}/weights', f'{options.folder}/data'
    os.makedirs(weights, exist_ok=True)
    check_scale(f'{weights}/scale.txt', options.scale)
    steps = {stage: max(1, round(count * options.scale)) for stage, count in STEPS.items()}
    done = lambda name: os.path.exists(f'{weights}/{name}')

    if 'render' in stages and not os.path.exists(f'{drawings}/index.json'):
        subprocess.run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], cwd=HERE, check=True)
        subprocess.run(['node', 'render.js', os.path.abspath(drawings)], cwd=HERE, check=True)
    if 'queries' in stages:
        import queries
        queries.main(drawings, f'{options.folder}/evaluation')

    import autoencoder, clip, judge, merges, vgg
    from data import Data
    from export import export
    from safetensors_io import load
    data = Data(drawings)
    if options.start and not done('merges.txt'):
        take_over(options.start, weights)
    if 'tokenizer' in stages and not done('merges.txt'):
        merges.train(data, weights)
    if 'vgg' in stages and not done('vgg16.pt'):
        vgg.train(data, weights, steps['vgg'])
    if 'autoencoder' in stages and not done('autoencoder.pt'):
        autoencoder.train(data, weights, steps['autoencoder'])
    for kind in ('rn', 'vit'):
        stage = f'clip-{kind}'
        if stage in stages and not done(f'{stage}.pt'):
            if options.start:
                start = load(f'{options.start}/{stage}.safetensors')
            else:
                plain = f'{stage}-plain'
                if not done(f'{plain}.pt'):
                    clip.train(data, weights, plain, kind, steps[stage])
                start = torch.load(f'{weights}/{plain}.pt')
            for part, (count, peak, robust, disguise) in enumerate(ROBUST[stage], 2):
                name = stage if part > len(ROBUST[stage]) else f'{stage}-part-{part}'
                if not done(f'{name}.pt'):
                    clip.train(data, weights, name, kind, max(1, round(count * options.scale)), start, peak, robust, disguise)
                start = torch.load(f'{weights}/{name}.pt')
    for kind in ('judge', 'trunk'):
        if kind in stages and not done(f'{kind}.pt'):
            judge.train(data, weights, kind, steps[kind])
    if 'export' in stages:
        export(weights, f'{options.folder}/pack')
        judge.export(data, weights, f'{options.folder}/evaluation/judge')


if __name__ == '__main__':
    main()
