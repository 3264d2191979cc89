"""Write a feature vector per image, and find the block of a BEiT that describes the images best.

    python tools/embed.py photos --checkpoint C
    python tools/embed.py photos --checkpoint C --out features.csv --block 9 --page neighbors.html
    python tools/embed.py pets --checkpoint C --knn               # folders are classes
    python tools/embed.py pets --checkpoint C --knn labels.csv    # columns image and label

A feature is the mean of the patches after a block. Images are resized at the shorter side and
cropped to a square. To resume an interrupted run, give the command again.
"""

import argparse
import os
import random
from itertools import compress
from pathlib import Path
from shutil import rmtree

import torch
from command_line import errors_on_one_line, make_parser, positive
from embedding.choice import choose, print_accuracy
from embedding.features import Store, accuracy_per_block, embed
from embedding.images import Images, read_classes
from embedding.page import write_neighbors
from embedding.write import check_format, write_features
from image_folders.listing import list_images

from beit_mm.data.image_files import SUFFIXES
from beit_mm.viz.model_weights import ModelWeights

MAX_LABELED = 10_000  # images whose neighbors are compared


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('data', type=Path, help='folder of images, at any depth')
    parser.add_argument('--checkpoint', required=True, help='a BEiT of any project')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('features.npz'),
        help='.npz, .csv or .parquet (%(default)s)',
    )
    parser.add_argument('--block', type=positive, help='1 is the first')
    parser.add_argument('--feature', choices=('mean', 'cls', 'map'), default='mean')
    parser.add_argument('--size', type=positive, help='side in pixels (as in training)')
    parser.add_argument('--batch-size', type=positive, default=32)
    parser.add_argument(
        '--knn', nargs='?', const='', metavar='LABELS', help='compare blocks by nearest neighbors'
    )
    parser.add_argument('--page', type=Path, help='write a page with the neighbors of images')
    return parser.parse_args(arguments)


@errors_on_one_line()
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if not args.data.is_dir():
        raise ValueError(f'{args.data} is no folder: expected the folder of the images')
    check_format(args.out, args.feature)
    names = list_images(args.data, SUFFIXES)
    if not names:
        raise ValueError(f'{args.data} has no image')
    labels = {}
    if args.knn is not None:
        labels = read_classes(Path(args.knn) if args.knn else None, names)
    weights = ModelWeights(args.checkpoint)
    backbone = weights.backbone().to('cuda' if torch.cuda.is_available() else 'cpu')
    choice = choose(args, weights, len(backbone.blocks))
    labeled = [index for index, name in enumerate(names) if name in labels]
    labeled = sorted(random.Random(0).sample(labeled, min(MAX_LABELED, len(labeled))))
    images = Images([args.data / name for name in names], weights, choice.size)
    store = Store(args.out.with_suffix('.partial'), backbone, names, labeled, choice)
    workers = min(len(os.sched_getaffinity(0)), 8)
    faults = embed(backbone, images, store, choice, labeled, args.batch_size, workers)
    for text in faults.values():
        print(f'skipped: {text}')
    if not store.done.any():
        raise ValueError(f'none of {len(names)} images in {args.data} can be read')
    write_features(
        args.out,
        list(compress(names, store.done)),
        store.features[store.done],
    )
    print(f'{args.out}: {choice.feature} of block {choice.block} for {store.done.sum()} images')
    if labels:
        good = [row for row, index in enumerate(labeled) if store.done[index]]
        classes = [labels[names[labeled[row]]] for row in good]
        print_accuracy(accuracy_per_block(store.blocks[good], classes), classes, choice.block)
    if args.page:
        features = store.features.mean((1, 2)) if choice.feature == 'map' else store.features
        write_neighbors(args.page, backbone, images, features, store.done, choice.block)
        print(f'{args.page}: open it in a browser')
    rmtree(store.folder)


if __name__ == '__main__':
    main()
