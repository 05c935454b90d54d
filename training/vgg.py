"""The trunk of the loss's LPIPS: a narrow VGG16, trained as a classifier of the drawings, BatchNorm folded."""
import torch
import torch.nn.functional as F

import data as pictures
from models import Vgg, fold_batch_norm
from training import Run, bf16, save_whole, seed_everything

BATCH, PEAK, SEED = 64, 2e-3, 0


@torch.no_grad()
def constant_channel(vgg, images, level=0.1):
    """Makes one channel of relu1_2 constant, so that no feature vector there is zero.

    The unit norm of LPIPS has no derivative at the zero vector. The channel that the others predict best
    is replaced by a constant; its linear prediction moves into the next convolution.
    """
    conv, following = vgg.features[2], vgg.features[5]
    f = vgg.taps(images)[0].permute(0, 2, 3, 1).flatten(0, 2)[::7].double()
    fits = []
    for c in range(f.shape[1]):
        others = [i for i in range(f.shape[1]) if i != c]
        a = torch.cat([f[:, others], torch.ones(len(f), 1, dtype=f.dtype)], 1)
        b = torch.linalg.lstsq(a, f[:, c:c + 1]).solution
        error = (a @ b - f[:, c:c + 1]).var() * following.weight[:, c].pow(2).sum()
        fits.append((error.item(), c, others, b.float()))
    _, c, others, b = min(fits, key=lambda fit: fit[0])
    lost = following.weight[:, c].clone()
    following.weight[:, others] += lost[:, None] * b[:-1, 0][None, :, None, None]
    following.weight[:, c] = lost * (b[-1].item() / level)
    conv.weight[c], conv.bias[c] = 0, level


def train(data, weights, steps):
    seed_everything(SEED)
    make = lambda: Vgg(batch_norm=True, classes=len(data.classes))
    model = make().to(memory_format=torch.channels_last)

    def report(state):
        check = make()
        check.load_state_dict(state)
        check.eval()
        with torch.no_grad():
            hits = [check(pictures.plain(data.pixels[j])).argmax(1) == data.label[j] for j in data.unseen[::3].split(64)]
        return f'unseen vendor: {torch.cat(hits).float().mean():.3f}'

    run = Run(f'{weights}/vgg-classifier.pt', model, steps, PEAK, SEED, decay=0.02, clip=2.0, report=report)
    for _ in run:
        j = data.pack_train[torch.randint(len(data.pack_train), (BATCH,))]
        x = pictures.compose(data.pixels[j], degrees=15, scale=(0.75, 1.15)).contiguous(memory_format=torch.channels_last)
        with bf16():
            logits = model(x)
        run.descend(F.cross_entropy(logits.float(), data.label[j], label_smoothing=0.1))
    model = make()
    model.load_state_dict(torch.load(f'{weights}/vgg-classifier.pt'))
    folded = Vgg()
    folded.features.load_state_dict(fold_batch_norm(model.eval().features).state_dict())
    seed_everything(SEED + 1)
    constant_channel(folded, pictures.compose(data.pixels[data.pack_train[torch.randint(len(data.pack_train), (256,))]]))
    save_whole(folded.state_dict(), f'{weights}/vgg16.pt')
