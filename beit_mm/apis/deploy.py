"""A model as one function of an image, exported for runtimes that know neither this project nor its hosts.

`image`, float32 [B, C, H, W], RGB if C is 3, 0 … 255: mean and std are inside. The batch is free; the size is fixed, since
positions and pyramids depend on it, except a tokenizer's, which may be any multiple of its stride.

| model | outputs |
|---|---|
| tokenizer | `ids` int64 [B, h, w], `reconstruction` [B, C, H, W] in [0, 1] (not of an encoder alone) |
| classifier | `logits` [B, classes] |
| segmentor | `logits` [B, classes, H, W], of the whole image at once |
| backbone | `features`, as its `out_type` has it; `features_0`, … where it reads several blocks |
"""

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..checkpoint.loading import channels_of
from ..models import DiscreteVAE
from ..models.dvae_losses import at_least_float32, map_pixels, unmap_pixels

FORMATS = dict(onnx='.onnx', torch='.pt2')


class Deployed(nn.Module):
    """What `export` writes. `kind`: tokenizer, classifier, segmentor or backbone; `names`: of the outputs.

    Raises ValueError for a model that is none of these.
    """

    def __init__(self, model: nn.Module, backbone: bool = False):
        super().__init__()
        self.model, self.kind = model, kind_of(model, backbone)
        mean, std = (getattr(model.data_preprocessor, name, None) for name in ('mean', 'std'))
        self.register_buffer('mean', None if mean is None else mean.detach().clone().view(-1, 1, 1))
        self.register_buffer('std', None if std is None else std.detach().clone().view(-1, 1, 1))

    @property
    def channels(self) -> int:
        """Channels of the images, C."""
        if self.kind == 'tokenizer':
            return self.model.in_channels
        return channels_of(self.model.backbone)

    @property
    def names(self) -> list[str]:
        if self.kind == 'tokenizer':
            return ['ids'] if self.model.decoder is None else ['ids', 'reconstruction']
        if self.kind != 'backbone':
            return ['logits']
        several = len(self.model.backbone.out_indices)
        return ['features'] if several == 1 else [f'features_{i}' for i in range(several)]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image if self.mean is None else (image - self.mean) / self.std
        return getattr(self, f'_{self.kind}')(x)

    def _tokenizer(self, x: Tensor) -> tuple[Tensor, ...]:
        ids = self.model.argmax_ids(
            map_pixels(x), None
        )  # `tokens` looks at the pixels first, which no graph can
        if self.model.decoder is None:
            return (ids,)
        out = self.model.decode_maps(ids)[:, : self.model.in_channels]
        return ids, unmap_pixels(torch.sigmoid(at_least_float32(out)))

    def _classifier(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.model(x, mode='tensor'),)

    def _segmentor(self, x: Tensor) -> tuple[Tensor, ...]:
        head = self.model.decode_head
        logits = head(self.model.extract_feat(x))
        return (
            F.interpolate(logits, x.shape[-2:], mode='bilinear', align_corners=head.align_corners),
        )

    def _backbone(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.backbone(x))


def kind_of(model: nn.Module, backbone: bool = False) -> str:
    if isinstance(model, DiscreteVAE) and not backbone:
        return 'tokenizer'
    if not hasattr(model, 'backbone'):
        raise ValueError(f'{type(model).__name__} has no backbone: leave --backbone out')
    if backbone or hasattr(
        model, 'target'
    ):  # of a pre-trained model the backbone is what others use
        return 'backbone'
    if hasattr(model, 'decode_head'):
        return 'segmentor'
    if hasattr(model, 'head'):
        return 'classifier'
    raise ValueError(
        f'{type(model).__name__} is no tokenizer, classifier or segmentor: add --backbone for its backbone'
    )


def size_of(deployed: Deployed) -> tuple[int, int]:
    """(height, width) in pixels that the model was made for."""
    if deployed.kind == 'tokenizer':
        return (16 * deployed.model.stride,) * 2
    backbone = deployed.model.backbone
    if not hasattr(backbone, 'grid'):
        raise ValueError(
            f'{type(backbone).__name__} does not say its image size: give --size HEIGHT WIDTH'
        )
    return tuple(side * backbone.patch_size for side in backbone.grid)


def trace(deployed: Deployed, size: tuple[int, int]) -> ExportedProgram:
    """The graph at an image size, for any batch."""
    image = example(2, deployed.channels, size)
    with torch.no_grad():
        shapes = {0: Dim('batch', min=1, max=4096)}
        if deployed.kind == 'tokenizer':
            stride = deployed.model.stride
            shapes |= {i: stride * Dim(name, min=1, max=1024) for i, name in ((2, 'h'), (3, 'w'))}
        return torch.export.export(deployed, (image,), dynamic_shapes=(shapes,))


def export(deployed: Deployed, path: Path, fmt: str, size: tuple[int, int]) -> None:
    """Writes ONNX (one file, weights inside), or with `fmt` 'torch' an ExportedProgram for `torch.export.load`.

    Raises ImportError, with the pip command, when what writes ONNX is missing.
    """
    if fmt == 'onnx':
        _need('onnx', 'onnxscript')
    program = trace(deployed, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    if fmt == 'torch':
        torch.export.save(program, path)
        return
    torch.onnx.export(
        program, (), path, input_names=['image'], output_names=deployed.names, dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip


def _need(*names: str) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ImportError(
                f'{name} is not installed: pip install onnx onnxscript onnxruntime'
            ) from error


@torch.no_grad()
def difference(deployed: Deployed, path: Path, fmt: str, size: tuple[int, int]) -> float:
    """The largest difference of an output between the written file and the model, on a batch of three.

    As a share of the largest of that output's values. Raises ImportError when onnxruntime is missing.
    """
    image = example(3, deployed.channels, size)
    wanted = deployed(image)
    if fmt == 'torch':
        found = torch.export.load(path).module()(image)
    else:
        _need('onnxruntime')
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        found = map(torch.from_numpy, session.run(deployed.names, dict(image=image.numpy())))
    pairs = [(a.double(), b.double()) for a, b in zip(wanted, found, strict=True)]
    return max(((a - b).abs().max() / a.abs().max().clamp_min(1e-12)).item() for a, b in pairs)


def example(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Random pixels, always the same ones."""
    return 255 * torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(batch))
