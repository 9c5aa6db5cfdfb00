"""The counter-based random numbers of dass, after include/dass/rng.h, graph.h (augment, drop_path) and data.h.

Philox 4x32-10 (Salmon et al., SC 2011) on numpy words; a stream is a pure function of (seed, purpose, name, step).
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

INIT, SHUFFLE, SPLIT, AUGMENT, DROP_PATH, SEARCH, TEST = range(1, 8)
LOW = np.uint64(0xffffffff)
HALF = np.uint64(32)


def philox(counter, key):
    """Four words for every counter; counter: four arrays or numbers, key: two numbers."""
    c = [np.asarray(x, dtype=np.uint64) for x in counter]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> HALF) ^ c[1] ^ np.uint64(k0), p1 & LOW, (p0 >> HALF) ^ c[3] ^ np.uint64(k1), p0 & LOW]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


# The first known answer of the authors' own test.
assert [int(x) for x in philox((0, 0, 0, 0), (0, 0))] == [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]


def name_hash(name):
    h = 0xcbf29ce484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001b3 % 2**64
    return h


def key_of(seed, purpose):
    return (seed % 2**32) ^ purpose, seed >> 32


class Stream:
    """Draws one after the other. name: a 64-bit hash."""

    def __init__(self, seed, purpose, name, step=0):
        self.key = key_of(seed, purpose)
        self.tail = (step, name % 2**32, name >> 32)
        self.ready = np.zeros(0, dtype=np.uint64)
        self.block = 0

    def words(self, n):
        while len(self.ready) < n:
            blocks = np.arange(self.block, self.block + (n - len(self.ready) + 3) // 4, dtype=np.uint64)
            fresh = np.stack(np.broadcast_arrays(*philox((blocks, *self.tail), self.key)), axis=1).reshape(-1)
            self.ready = np.concatenate([self.ready, fresh])
            self.block += len(blocks)
        out, self.ready = self.ready[:n], self.ready[n:]
        return out

    def below(self, n):
        """Uniform in [0, n) without bias (Lemire 2019)."""
        while True:
            product = int(self.words(1)[0]) * n
            if product % 2**32 >= 2**32 % n:
                return product >> 32

    def permute(self, order):
        order = list(order)
        for i in range(len(order) - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order


class FromSeed:
    """Initial values as a fresh run makes them: PyTorch's default bounds, alpha 1e-3 N(0, 1)."""

    def __init__(self, seed):
        self.seed = seed

    def weight(self, name, shape):
        n = int(np.prod(shape))
        u = Stream(self.seed, INIT, name_hash(name)).words(n).astype(np.float64) / 2.0**32
        return torch.from_numpy((2.0 * u - 1.0) / math.sqrt(n / shape[0])).reshape(shape)

    def other(self, name, n, about):
        return torch.full((n,), float(about), dtype=torch.float64)

    def alpha(self, kind, n):
        w = Stream(self.seed, INIT, name_hash("alpha." + kind)).words(2 * n).astype(np.float64)
        u, v = (w[0::2] + 1.0) / 2.0**32, w[1::2] / 2.0**32
        return torch.from_numpy(1e-3 * np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * math.pi * v))


# ---- data -----------------------------------------------------------------------------------------------------------

def random_images(seed, name, n, size, channels, classes):
    """Noise of half the range; a band of rows whose place tells the class is brighter by the other half."""
    images, labels = [], []
    band_of = np.arange(size) * classes // size
    for i in range(n):
        s = Stream(seed, TEST, name_hash(name), i)
        label = s.below(classes)
        count = size * size * channels
        words = s.words((count + 3) // 4)
        noise = np.stack([words >> np.uint64(8 * b) & np.uint64(255) for b in range(4)], axis=1).reshape(-1)[:count]
        image = (noise // np.uint64(2)).astype(np.int64).reshape(size, size, channels)
        image[band_of == label] += 128
        images.append(image)
        labels.append(label)
    return np.stack(images).astype(np.float64), np.array(labels)


def split(seed, n, part):
    order = Stream(seed, SPLIT, name_hash("split")).permute(range(n))
    return order[:math.floor(part * n)], order[math.floor(part * n):]


class Source:
    """Batches of an epoch in its order; when the images are used up, another pass in another order begins."""

    def __init__(self, seed, name, index, batch):
        self.seed, self.name, self.index, self.batch = seed, name, index, batch
        self.steps = len(index) // batch

    def samples(self, epoch, number):
        turn, at = divmod(number, self.steps)
        name = (name_hash(self.name) + turn * 0x9E3779B97F4A7C15) % 2**64
        order = Stream(self.seed, SHUFFLE, name, epoch).permute(self.index)
        return order[at * self.batch:(at + 1) * self.batch]


def augment(images, samples, seed, epoch, settings):
    """Zero padding and crop, mirror, normalising, a square of zeros. images: (N, H, W, C) of bytes as doubles."""
    pad, cutout = settings["pad"], settings["cutout"]
    size = images.shape[1]
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0
    mean = torch.tensor(settings["mean"], dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(settings["std"], dtype=torch.float64).view(-1, 1, 1)
    rows = []
    for image, sample in zip(x, samples):
        r = [int(w) for w in philox((sample, epoch, 0, 0), key_of(seed, AUGMENT))]
        if pad > 0:
            top, left = r[0] % (2 * pad + 1), (r[0] >> 16) % (2 * pad + 1)
            image = F.pad(image, (pad, pad, pad, pad))[:, top:top + size, left:left + size]
        if settings["flip"] and r[1] & 1:
            image = torch.flip(image, dims=(2,))
        image = (image - mean) / std
        if cutout > 0:
            top, left = r[2] % size - cutout // 2, r[3] % size - cutout // 2
            image = image.clone()
            image[:, max(top, 0):max(top + cutout, 0), max(left, 0):max(left + cutout, 0)] = 0.0
        rows.append(image)
    return torch.stack(rows)


def drop_path(x, samples, seed, epoch, step, name, p):
    """Whole rows of dropped samples are 0, the others scaled so that the mean stays."""
    h = name_hash(name)
    r = philox((np.array(samples), epoch, step, (h % 2**32) ^ (h >> 32)), key_of(seed, DROP_PATH))[0]
    keep = torch.from_numpy((np.broadcast_to(r, (len(samples),)).astype(np.float64) / 2.0**32 >= p).astype(np.float64))
    return x * (keep / (1.0 - p)).view(-1, 1, 1, 1)
