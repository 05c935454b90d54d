"""Learns the tokenizer's BPE merges from the names, keywords and caption templates.

Words are split by CLIP's pattern before merging, so no merge crosses a hyphen, a digit or an apostrophe.
"""
import collections

from tokenizer import PATTERN, SYMBOLS

COUNT = 1486  # with 512 byte symbols, start and end: 2,000 tokens


def learn(texts, count):
    frequency = collections.Counter(w for t in texts for w in PATTERN.findall(t.lower()))
    words = {}
    for w in frequency:
        symbols = [SYMBOLS[b] for b in w.encode('utf-8')]
        words[w] = symbols[:-1] + [symbols[-1] + '</w>']
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for w, symbols in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += frequency[w]
        (a, b), seen = pairs.most_common(1)[0] if pairs else (('', ''), 0)
        if seen < 2:
            break
        merges.append((a, b))
        for symbols in words.values():
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == (a, b):
                    symbols[i:i + 2] = [a + b]
                i += 1
    return merges


def train(data, weights):
    texts = [c['name'] for c in data.classes] * 3 + [t for c in data.classes for t in c['keywords']]
    merges = learn(texts + ['a photo picture drawing emoji of a an the'] * 5, COUNT)
    with open(f'{weights}/merges.txt', 'w', encoding='utf-8') as f:
        f.write('#version: 0.2\n' + '\n'.join(' '.join(m) for m in merges) + '\n')
    print(len(merges), 'merges')
