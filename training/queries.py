"""The query set of the evaluation, and which drawings no network may learn from. Deterministic.

usage: queries.py DATA EVALUATION -> EVALUATION/{labels,queries-dev,queries-test,references}.csv and EVALUATION/images
"""
import csv
import hashlib
import json
import os
import shutil
import sys

PER_TARGET = 8
UNSEEN = 'emojione'  # the vendor that no network of the pack has seen


def order(*key):
    """A number that depends on the key alone: sorting by it shuffles the same way everywhere."""
    return hashlib.sha256('/'.join(key).encode()).digest()


def clusters():
    return json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'clusters.json'), encoding='utf-8'))


class Drawings:
    """All drawings of a data folder: where they are and to which split they belong."""

    def __init__(self, folder):
        self.index = json.load(open(f'{folder}/index.json', encoding='utf-8'))
        self.classes, self.vendors = self.index['classes'], self.index['vendors']
        labels = {label for cluster in clusters().values() for label in cluster}
        families = {}  # label -> family -> vendors of it that draw the label
        for v, c in self.index['drawings']:
            if self.classes[c]['name'] in labels:
                families.setdefault(c, {}).setdefault(self.vendors[v]['family'], []).append(v)
        lot = lambda kind, c, of: order(kind, self.classes[c]['name'], of)
        self.held_out = {c: min(f, key=lambda family: lot('split', c, family)) for c, f in families.items()}
        self.validation = {c: min(f[self.held_out[c]], key=lambda v: lot('validation', c, self.vendors[v]['id']))
                           for c, f in families.items()}

    def split(self, vendor, label):
        """Per evaluated class one family of vendors, drawn by lot, is kept from the pack: one drawing of it, by lot too, from the
        judge as well (`validation`), the others not (`judge`). All else is `train`. Both arguments are numbers."""
        if self.held_out.get(label) != self.vendors[vendor]['family']:
            return 'train'
        return 'validation' if self.validation[label] == vendor else 'judge'

    def image(self, vendor, label):
        return f"{self.vendors[vendor]['id']}/{self.classes[label]['slug']}.png"


def queries(drawings):
    """Rows (image, source, target, cluster, vendor) for development and test."""
    number = {c['name']: i for i, c in enumerate(drawings.classes)}
    of_class = {}
    for v, c in drawings.index['drawings']:
        if drawings.split(v, c) != 'train' or drawings.vendors[v]['id'] == UNSEEN:
            of_class.setdefault(c, []).append(v)
    halves = [], []
    for cluster, labels in clusters().items():
        for target in labels:
            ranked = []  # the k-th picture of every source class comes before the k+1-st of any
            for source in labels:
                if source != target:
                    vendors = sorted(of_class[number[source]], key=lambda v: order('picture', target, source, str(v)))
                    ranked += [(k, order('source', target, source), source, v) for k, v in enumerate(vendors)]
            ranked.sort()
            for k, (_, _, source, v) in enumerate(ranked[:PER_TARGET]):
                halves[k % 2].append((drawings.image(v, number[source]), source, target, cluster, drawings.vendors[v]['id']))
    return halves


def write(path, header, rows):
    with open(path, 'w', newline='', encoding='utf-8') as f:
        csv.writer(f, lineterminator='\n').writerows([header, *rows])


def main(data, evaluation):
    drawings = Drawings(data)
    os.makedirs(evaluation, exist_ok=True)
    write(f'{evaluation}/labels.csv', ('label', 'cluster'), [(label, k) for k, labels in clusters().items() for label in labels])
    for name, rows in zip(('dev', 'test'), queries(drawings)):
        write(f'{evaluation}/queries-{name}.csv', ('image', 'source', 'target', 'cluster', 'vendor'), rows)
        print(name, len(rows))
    references = [(drawings.image(v, c), drawings.classes[c]['name'], drawings.vendors[v]['id'], drawings.split(v, c))
                  for v, c in drawings.index['drawings'] if c in drawings.held_out]
    write(f'{evaluation}/references.csv', ('image', 'label', 'vendor', 'split'), references)
    for image, *_ in references:
        os.makedirs(os.path.dirname(f'{evaluation}/images/{image}'), exist_ok=True)
        shutil.copy(f'{data}/images/{image}', f'{evaluation}/images/{image}')


if __name__ == '__main__':
    main(*sys.argv[1:3])
