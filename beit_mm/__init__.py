"""BEiT (https://arxiv.org/abs/2106.08254) for OpenMMLab: tokenizer, masked image modeling, classification, segmentation."""

__version__ = '0.1.0'
