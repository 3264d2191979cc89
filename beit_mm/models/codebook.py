"""Initial codebook of a discrete VAE from the features of images."""

import torch
from mmengine.dist import broadcast
from torch import Tensor, nn

from .dvae_losses import map_pixels

IMAGES_AT_ONCE = 16  # all images at once would need much memory at the paper's width


@torch.no_grad()
def init_codebook(encoder: nn.Sequential, images: Tensor, sharpness: float) -> None:
    """Set the codes of an encoder to distant features of patches of images [B, C, H, W].

    Each logit becomes −`sharpness` / 2 · (squared distance to the code), in units of the mean
    squared distance between a patch and its code. Raises ValueError if the images have no more
    different patches than the encoder has codes.
    """
    parts = map_pixels(images).split(IMAGES_AT_ONCE)
    features = torch.cat([encoder[:-1](part).relu() for part in parts])
    features = features.permute(0, 2, 3, 1).flatten(0, 2)
    conv = encoder.output.conv
    codes, distances = choose_distant(features, len(conv.weight))
    if not distances.any():
        raise ValueError(
            f'{len(features)} patches of {len(images)} images are too similar for '
            f'{len(conv.weight)} codes: raise num_images of InitCodebook, or lower vocab_size'
        )
    weight = codes * sharpness / distances.mean()
    conv.weight.copy_(weight[..., None, None])
    conv.bias.copy_(-(weight * codes).sum(1) / 2)
    broadcast(conv.weight.data)
    broadcast(conv.bias.data)


def choose_distant(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose `count` of the features [P, D] by k-means++.

    Return them, and the squared distance of each feature to the nearest of them [P].
    """
    chosen = []
    distances = torch.ones(len(features), device=features.device)
    for _ in range(count):
        choice = features[torch.multinomial(distances + 1e-12, 1)]
        # The default mode loses digits of small distances.
        distance = torch.cdist(features, choice, compute_mode='donot_use_mm_for_euclid_dist')
        squared = distance.squeeze(1).square()
        distances = torch.minimum(distances, squared) if chosen else squared
        chosen.append(choice)
    return torch.cat(chosen), distances
