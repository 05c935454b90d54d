"""From an empty folder to the pack and its judge.

usage: train.py FOLDER [--stages a,b,…] [--threads N] [--scale X]

Stages, in order: render, queries, tokenizer, vgg, autoencoder, deep, clip-rn, clip-vit, judge, trunk, export. What is there
is not made again; a stage that was stopped goes on at its last checkpoint.
--threads: of a stage; more are faster and give other bits (the embedded pack: 1).
--scale multiplies all numbers of steps (0.01: a rehearsal of minutes).
"""
import argparse
import os
import subprocess

os.environ['OPENBLAS_NUM_THREADS'] = '1'  # --threads does not reach its threads, and as many as there are cores give other bits

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
VGG_STEPS = 1500
PARTS = {
    # steps, peak rate, noise on the latent, seed
    'autoencoder': ((5000, 8e-4, 0.1, 0), (1500, 5e-4, 0.6, 7)),
    # the same; share of the steps that is without the critic, share of the critic's gradient
    'deep': ((4500, 8e-4, 0.6, 21, 1 / 3, 0.5),),
    # steps, peak rate, shares: of perturbed batches, of disguised and of painted pictures; seed; how some are moved
    # through the deep autoencoder: steps, largest distance; share that is painted where the name has a colour
    'clip-rn': ((9000, 1.0e-3, 0.0, 0.0, 0.0, 11), (7200, 1e-3, 0.5, 0.5, 0.0, 11), (7200, 1e-3, 0.5, 0.5, 0.15, 12),
                (600, 5e-4, 0.6, 0.2, 0.15, 13), (600, 3e-4, 0.6, 0.0, 0.15, 14),
                (1200, 5e-4, 0.3, 0.1, 0.15, 31, (2, 0.5)), (1100, 6e-4, 0.2, 0.1, 0.15, 32, (3, 0.6))),
    'clip-vit': ((9000, 1.2e-3, 0.0, 0.0, 0.0, 22), (7200, 1e-3, 0.4, 0.5, 0.0, 22), (7200, 1e-3, 0.4, 0.5, 0.15, 23),
                 (600, 5e-4, 0.5, 0.2, 0.15, 24), (600, 3e-4, 0.5, 0.0, 0.15, 25),
                 (1200, 5e-4, 0.3, 0.1, 0.15, 41, (2, 0.5)), (1100, 6e-4, 0.2, 0.1, 0.15, 42, (3, 0.6)),
                 (1000, 5e-4, 0.3, 0.1, 0.4, 43, (2, 0.5), 0.6), (700, 4e-4, 0.3, 0.1, 0.15, 44, (2, 0.5), 0.5)),
    # steps, peak rate, strength of disguises, seed
    'judge': ((7000, 2e-3, 1.0, 1234), (1000, 5e-4, 0.5, 1235)),
    'trunk': ((600, 2e-3, 0.0, 4321),),
}
STAGES = ('render', 'queries', 'tokenizer', 'vgg', *PARTS, 'export')


def check_scale(file, scale):
    """What a rehearsal left would pass for trained networks."""
    if not os.path.exists(file):
        with open(file + '.part', 'w') as f:
            f.write(f'{scale!r}\n')
        os.replace(file + '.part', file)
    before = float(open(file).read())
    if before != scale:
        raise SystemExit(f'{os.path.dirname(file)} was begun with --scale {before!r}. Give the same, or another folder.')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--stages', default=','.join(STAGES))
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--scale', type=float, default=1.0)
    options = parser.parse_args()
    stages = options.stages.split(',')
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        parser.error(f'there is no stage {", ".join(unknown)}; stages are {", ".join(STAGES)}')
    torch.set_num_threads(options.threads)
    weights, drawings = f'{options.folder}/weights', f'{options.folder}/data'
    os.makedirs(weights, exist_ok=True)
    check_scale(f'{weights}/scale.txt', options.scale)
    scaled = lambda count: max(1, round(count * options.scale))
    done = lambda name: os.path.exists(f'{weights}/{name}')

    if 'render' in stages and not os.path.exists(f'{drawings}/index.json'):
        subprocess.run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], cwd=HERE, check=True)
        subprocess.run(['node', 'render.js', os.path.abspath(drawings)], cwd=HERE, check=True)
    if 'queries' in stages:
        import queries
        queries.main(drawings, f'{options.folder}/evaluation')

    import autoencoder, clip, deep, judge, merges, vgg
    from data import Data
    from export import export
    data = Data(drawings)
    if 'tokenizer' in stages and not done('merges.txt'):
        merges.train(data, weights)
    if 'vgg' in stages and not done('vgg16.pt'):
        vgg.train(data, weights, scaled(VGG_STEPS))
    trains = {'autoencoder': autoencoder.train, 'deep': deep.train, 'clip': clip.train, 'judge': judge.train, 'trunk': judge.train}
    for stage in PARTS:
        if stage in stages and not done(f'{stage}.pt'):
            start = None
            for number, (count, *how) in enumerate(PARTS[stage], 1):
                name = stage if number == len(PARTS[stage]) else f'{stage}-part-{number}'
                if not done(f'{name}.pt'):
                    trains[stage.split('-')[0]](data, weights, name, scaled(count), start, *how)
                start = torch.load(f'{weights}/{name}.pt')
    if 'export' in stages:
        export(weights, f'{options.folder}/pack')
        judge.export(data, weights, f'{options.folder}/evaluation/judge')


if __name__ == '__main__':
    main()
