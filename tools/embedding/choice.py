"""The block whose features are written, and its accuracy beside that of the others."""

import argparse

from beit_mm.viz.model_weights import ModelWeights

from .features import Choice, default_block


def choose(args: argparse.Namespace, weights: ModelWeights, depth: int) -> Choice:
    """Return the features that the arguments ask for.

    Raises ValueError if the backbone has no such block, or its patches do not fit the size.
    """
    block = args.block or default_block(depth, weights.spec.kind)
    if block > depth:
        raise ValueError(f'--block {block}: {args.checkpoint} has {depth} blocks')
    size, patch_size = args.size or min(weights.spec.img_size), weights.spec.patch_size
    if size % patch_size:
        raise ValueError(f'--size {size}: expected a multiple of the patch size {patch_size}')
    return Choice(block, args.feature, size)


def print_accuracy(accuracies: list[float], classes: list[str], written: int) -> None:
    """Print the accuracy of each block, and which is best."""
    print(f'nearest neighbors of {len(classes)} images of {len(set(classes))} classes:')
    best = max(accuracies)
    for block, accuracy in enumerate(accuracies, 1):
        print(f'  block {block:2d}  {accuracy:5.1f} %{"  best" * (accuracy == best)}')
    block = accuracies.index(best) + 1
    if block != written:
        print(
            f'Block {block} is better than block {written}, whose features were written: pass '
            f'--block {block}'
        )
    if block < len(accuracies):
        print('In a pre-trained BEiT a middle block is often best: the last blocks predict tokens.')
