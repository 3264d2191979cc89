"""Models exported for runtimes that have neither this project nor mmpretrain or mmseg.

The input is `image`, float32 [B, C, H, W], 0 … 255, RGB if C is 3; mean and std are part of the
exported model. The batch size is free. The image size is fixed, except that of a tokenizer other
than VQ-KD, which may be any multiple of its stride.

| model | outputs |
|---|---|
| tokenizer | `ids` int64 [B, h, w]; `reconstruction` [B, C, H, W] in [0, 1] if it can decode |
| classifier | `logits` [B, classes] |
| segmentor | `logits` [B, classes, H, W], of the entire image at once |
| backbone | `features`, by its `out_type`; `features_0`, … with several `out_indices` |
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from ..checkpoint.loading import count_channels
from ..models import VQKD, Tokenizer

FORMATS = dict(onnx='.onnx', torch='.pt2')


class Deployed(nn.Module):
    """A model with its normalization, as it is exported.

    `kind` is tokenizer, classifier, segmentor or backbone; `names` are those of the outputs.
    Raises ValueError for another model.
    """

    def __init__(self, model: nn.Module, backbone: bool = False):
        super().__init__()
        self.model, self.kind = model, _find_kind(model, backbone)
        # The positions of VQ-KD are resized for one size of images.
        self.any_size = self.kind == 'tokenizer' and not isinstance(model, VQKD)
        self.channels = count_channels(getattr(model, 'backbone', model))
        for name in ('mean', 'std'):
            value = getattr(model.data_preprocessor, name, None)
            self.register_buffer(name, None if value is None else value.clone().view(-1, 1, 1))
        if self.kind == 'tokenizer':
            self.names = ['ids', 'reconstruction'] if model.can_decode else ['ids']
        elif self.kind == 'backbone':
            count = len(model.backbone.out_indices)
            self.names = [f'features_{i}' for i in range(count)] if count > 1 else ['features']
        else:
            self.names = ['logits']

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image if self.mean is None else (image - self.mean) / self.std
        model = self.model
        if self.kind == 'backbone':
            return tuple(model.backbone(x))
        if self.kind == 'classifier':
            return (model(x, mode='tensor'),)
        if self.kind == 'segmentor':
            head = model.decode_head
            logits = head(model.extract_feat(x))
            align = head.align_corners
            return (F.interpolate(logits, x.shape[-2:], mode='bilinear', align_corners=align),)
        ids = model.tokens(x)
        return (ids, model.decode(ids)) if model.can_decode else (ids,)


def _find_kind(model: nn.Module, backbone: bool) -> str:
    name = type(model).__name__
    if isinstance(model, Tokenizer) and not backbone:
        return 'tokenizer'
    if not hasattr(model, 'backbone'):
        raise ValueError(f'{name} has no backbone: remove --backbone')
    if backbone or hasattr(model, 'target'):  # other tasks use the backbone of a pre-training
        return 'backbone'
    for kind, head in (('segmentor', 'decode_head'), ('classifier', 'head')):
        if hasattr(model, head):
            return kind
    raise ValueError(
        f'{name} is no tokenizer, classifier or segmentor: add --backbone to export its backbone'
    )


def image_size(deployed: Deployed) -> tuple[int, int]:
    """Return (height, width) in pixels that the model was made for."""
    if deployed.any_size:
        return (16 * deployed.model.stride,) * 2
    is_vqkd = deployed.kind == 'tokenizer'
    backbone = deployed.model.encoder if is_vqkd else deployed.model.backbone
    if not hasattr(backbone, 'grid'):
        raise ValueError(
            f'the image size of {type(backbone).__name__} is unknown: pass --size HEIGHT WIDTH'
        )
    return tuple(side * backbone.patch_size for side in backbone.grid)


def export(deployed: Deployed, path: Path, file_format: str, size: tuple[int, int]) -> None:
    """Write ONNX with weights in one file ('onnx'), or an ExportedProgram ('torch').

    Raises ImportError with the pip command if a package is not installed.
    """
    if file_format == 'onnx':
        _import('onnx')
        _import('onnxscript')
    shapes = {0: Dim('batch', min=1, max=4096)}
    if deployed.any_size:
        for axis, name in ((2, 'h'), (3, 'w')):
            shapes[axis] = deployed.model.stride * Dim(name, min=1, max=1024)
    image = random_images(2, deployed.channels, size)
    with torch.no_grad():
        program = torch.export.export(deployed, (image,), dynamic_shapes=(shapes,))
    path.parent.mkdir(parents=True, exist_ok=True)
    if file_format == 'torch':
        torch.export.save(program, path)
        return
    names = dict(input_names=['image'], output_names=deployed.names)
    torch.onnx.export(program, (), path, **names, dynamo=True, external_data=False, verbose=False)


def _import(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        command = 'pip install onnx onnxscript onnxruntime'
        raise ImportError(f'{package} is not installed: {command}') from error


@torch.no_grad()
def largest_difference(
    deployed: Deployed, path: Path, file_format: str, size: tuple[int, int]
) -> float:
    """Compare the outputs of the written file and the model on three images.

    Returns the largest difference relative to the largest value of an output. Raises ImportError
    if onnxruntime is not installed.
    """
    image = random_images(3, deployed.channels, size)
    if file_format == 'torch':
        outputs = torch.export.load(path).module()(image)
    else:
        runtime = _import('onnxruntime')
        session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
        outputs = map(torch.from_numpy, session.run(deployed.names, dict(image=image.numpy())))
    largest = 0.0
    for expected, output in zip(deployed(image), outputs, strict=True):
        difference = (output.double() - expected.double()).abs().max()
        largest = max(largest, (difference / expected.abs().max().clamp_min(1e-12)).item())
    return largest


def random_images(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Return random pixels that depend on the batch size only."""
    return 255 * torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(batch))
