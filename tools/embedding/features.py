"""Features of a backbone's blocks, in files from which an interrupted run resumes."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from mmengine.utils import ProgressBar
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from beit_mm.engine.measures import knn_top1, record_outputs
from beit_mm.models import BEiT

from .images import Images, collate


@dataclass(frozen=True)
class Choice:
    """Features that are kept.

    Args:
        block: 1 is the first.
        feature: 'mean' of the patches [D], 'cls' [D], or 'map' of the patches [h, w, D].
        size: side of the images in pixels.
    """

    block: int
    feature: str
    size: int

    def shape(self, backbone: BEiT) -> tuple[int, ...]:
        side = self.size // backbone.patch_size
        return (*((side, side) if self.feature == 'map' else ()), backbone.embed_dims)

    def select(self, output: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return [B, *shape] of the output [B, 1 + N, D] of a block."""
        if self.feature == 'cls':
            return output[:, 0]
        return output[:, 1:].mean(1) if self.feature == 'mean' else output[:, 1:].view(-1, *shape)


class Store:
    """Arrays in the files of a folder, which survive an interruption.

    `features` [N, …], `done` bool [N], and `blocks` [n, L, D] of the images `labeled`. They are
    empty at first, unless the folder was written for the same images, weights and choice.
    """

    def __init__(
        self, folder: Path, backbone: BEiT, names: list[str], labeled: list[int], choice: Choice
    ):
        settings = dict(asdict(choice), images=names, labeled=labeled)
        text = json.dumps(dict(settings, weights=_checksum(backbone)))
        file = folder / 'settings.json'
        mode = 'r+' if file.is_file() and file.read_text() == text else 'w+'
        if mode == 'w+':
            rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

        def array(name: str, dtype: type, *shape: int) -> np.ndarray:
            if 0 in shape:
                return np.empty(shape, dtype)
            return open_memmap(folder / f'{name}.npy', mode, dtype, shape)

        depth, dims = len(backbone.blocks), backbone.embed_dims
        dtype = np.float16 if choice.feature == 'map' else np.float32
        self.folder = folder
        self.features = array('features', dtype, len(names), *choice.shape(backbone))
        self.blocks = array('blocks', np.float32, len(labeled), depth, dims)
        self.done = array('done', bool, len(names))
        file.write_text(text)


@torch.no_grad()
def embed(
    backbone: BEiT,
    images: Images,
    store: Store,
    choice: Choice,
    labeled: list[int],
    batch_size: int,
    workers: int,
) -> dict[str, str]:
    """Fill the arrays of `store`, and return path → why an image cannot be read."""
    device = next(backbone.parameters()).device
    row_of = {index: row for row, index in enumerate(labeled)}
    todo = np.flatnonzero(~store.done).tolist()
    loader = DataLoader(Subset(images, todo), batch_size, collate_fn=collate, num_workers=workers)
    shape, faults = choice.shape(backbone), {}
    bar = ProgressBar(len(todo))
    for indices, batch, bad in loader:
        faults |= {str(images.paths[index]): reason for index, reason in bad.items()}
        if indices:
            rows = [row_of.get(index) for index in indices]
            needed = choice.block if rows.count(None) == len(rows) else len(backbone.blocks)
            outputs = block_outputs(backbone, batch.to(device), needed)
            store.features[indices] = choice.select(outputs[choice.block - 1], shape).cpu().numpy()
            for place, row in enumerate(rows):
                if row is not None:
                    means = [output[place, 1:].mean(0) for output in outputs]
                    store.blocks[row] = torch.stack(means).cpu().numpy()
            store.done[indices] = True
        bar.update(len(indices) + len(bad))
    print()
    return faults


def block_outputs(backbone: BEiT, images: Tensor, count: int) -> list[Tensor]:
    """Return the outputs [B, 1 + N, D] of the first `count` blocks, without the last norm."""
    backbone.out_indices = (count - 1,)  # skips the other blocks
    with record_outputs(backbone.blocks, Tensor.float) as outputs:
        backbone(images)
    return outputs


def accuracy_per_block(blocks: np.ndarray, labels: list[str]) -> list[float]:
    """Return for each block of `blocks` [n, L, D] the accuracy (%) of nearest neighbors.

    They are searched among the other images.
    """
    numbers = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    return [knn_top1(torch.from_numpy(features), numbers) for features in blocks.swapaxes(0, 1)]


def default_block(depth: int, kind: str) -> int:
    """Return the last block of a fine-tuned model, else the one of the paper's linear probe.

    The last blocks of a pre-training predict tokens. The paper probes block 9 of 12.
    """
    return depth if kind in ('classifier', 'segmentor') else max(round(0.75 * depth), 1)


def _checksum(backbone: BEiT) -> int:
    checksum = 0
    for parameter in backbone.parameters():
        checksum = zlib.crc32(parameter.detach().cpu().numpy(), checksum)
    return checksum
