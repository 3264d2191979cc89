"""A page of images with their nearest neighbors and the main directions of their patches."""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from beit_mm.models import BEiT
from beit_mm.viz.inputs import read_model_image, to_rgb
from beit_mm.viz.pages import write_page

from .features import block_outputs
from .images import Images

SHOWN, NEIGHBORS = 60, 6
SIDE = 144  # of a picture, in pixels


def write_neighbors(
    path: Path, backbone: BEiT, images: Images, features: np.ndarray, done: np.ndarray, block: int
) -> None:
    """Write the page for up to `SHOWN` images, evenly spaced among those that are done.

    `features` [N, D] are those of all images.
    """
    indices = np.flatnonzero(done)
    shown = indices[np.unique(np.linspace(0, len(indices) - 1, SHOWN).round().astype(int))]
    unit = features[indices] / np.linalg.norm(features[indices], axis=1, keepdims=True).clip(1e-12)
    pictures = draw_components([_patches(backbone, images[i][1], block) for i in shown])
    rows, used = [], {}
    for index, picture in zip(shown, pictures, strict=True):
        similarity = unit @ unit[np.searchsorted(indices, index)]
        nearest = indices[np.argsort(-similarity, kind='stable')]
        nearest = [other for other in nearest if other != index][:NEIGHBORS]
        used |= dict.fromkeys([index, *nearest])
        cosines = [float(similarity[np.searchsorted(indices, other)]) for other in nearest]
        rows.append((index, picture, list(zip(nearest, cosines, strict=True))))
    write_page(
        path,
        'neighbors.html',
        Path(__file__).with_name('templates'),
        title='Nearest neighbors',
        block=block,
        count=len(indices),
        rows=rows,
        names={index: str(images.paths[index]) for index in used},
        thumbnails={index: _thumbnail(images.paths[index], images.channels) for index in used},
    )


def draw_components(patches: list[Tensor]) -> list[np.ndarray]:
    """Return the first three principal components of patches [h, w, D] as red, green and blue.

    The components are those of the patches of all images together, so a color has one meaning.
    Returns uint8 [h, w, 3].
    """
    flat = torch.cat([values.flatten(0, 1) for values in patches]).double()
    mean = flat.mean(0)
    directions = torch.linalg.eigh((flat - mean).T @ (flat - mean)).eigenvectors[:, -3:].flip(1)
    # The sign of a direction is arbitrary; its largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    low, high = np.percentile(((flat - mean) @ directions).numpy(), (1, 99), axis=0)
    found = []
    for values in patches:
        scores = ((values.double() - mean) @ directions).numpy()
        levels = 255 * (scores - low) / np.maximum(high - low, 1e-12)
        found.append(levels.round().clip(0, 255).astype(np.uint8))
    return found


@torch.no_grad()
def _patches(backbone: BEiT, image: Tensor, block: int) -> Tensor:
    device = next(backbone.parameters()).device
    output = block_outputs(backbone, image[None].to(device), block)[-1]
    side = image.shape[-1] // backbone.patch_size
    return output[0, 1:].unflatten(0, (side, side)).cpu()


def _thumbnail(path: Path, channels: int) -> str:
    """Return the center of an image, small, as a JPEG in a data URI."""
    picture = ImageOps.fit(Image.fromarray(to_rgb(read_model_image(path, channels))), (SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()
