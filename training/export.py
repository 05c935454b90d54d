"""Trained weights -> a pack: float16 safetensors in the original key layouts, merges.txt, pack.json."""
import hashlib
import json
import os
import shutil

import torch

from models import VGG_WIDTHS
from safetensors_io import save
from tokenizer import Tokenizer

LPIPS_WEIGHT = 0.2
HERE = os.path.dirname(os.path.abspath(__file__))
NETWORKS = ('autoencoder', 'clip-rn', 'clip-vit', 'vgg16')


def read_json(name):
    return json.load(open(os.path.join(HERE, name), encoding='utf-8'))


def described(path):
    content = open(path, 'rb').read()
    return {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}


def export(weights, pack):
    os.makedirs(pack, exist_ok=True)
    for name in NETWORKS:
        state = torch.load(f'{weights}/{name}.pt', map_location='cpu')
        save(f'{pack}/{name}.safetensors', {k: v.half() if v.is_floating_point() else v for k, v in state.items()})
    widths = [VGG_WIDTHS[i - 1] for i, w in enumerate(VGG_WIDTHS) if w == 'M']
    linear = {f'lin{i}.model.1.weight': torch.full((1, w, 1, 1), LPIPS_WEIGHT) for i, w in enumerate(widths)}
    save(f'{pack}/lpips.safetensors', linear)
    shutil.copy(f'{weights}/merges.txt', f'{pack}/merges.txt')
    manifest = read_json('manifest.json')
    manifest['tokenizer']['vocabularySize'] = len(Tokenizer(f'{pack}/merges.txt').vocabulary)
    manifest['attribution'] = [a for a in read_json('attribution.json') if 'note' not in a]
    files = sorted([*(f'{name}.safetensors' for name in (*NETWORKS, 'lpips')), 'merges.txt'])
    manifest['files'] = {file: described(f'{pack}/{file}') for file in files}
    with open(f'{pack}/pack.json', 'w', encoding='utf-8') as f:
        f.write(json.dumps(manifest, indent=2, ensure_ascii=False) + '\n')
