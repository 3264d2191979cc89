"""BEiT (https://arxiv.org/abs/2106.08254) for OpenMMLab: tokenizer, masked image modeling, classification, segmentation."""

from . import shelf

__version__ = '0.1.0'

shelf.offer()  # to mmpretrain, of which nothing is imported here
