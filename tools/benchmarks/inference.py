"""Images per second of classification, and of segmentation by sliding windows."""

from collections.abc import Iterator
from functools import partial

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from beit_mm.models import BEiT

from .other_training import hf_sizes
from .timing import DEVICE, TOY, BenchmarkSettings, autocast, dtypes, row, take_turns
from .training import ROOT

SEGMENTATION_CONFIG = (
    ROOT / 'configs/segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
)
IMAGE_SIZES = ((512, 683), (1024, 2048))
GFLOP = 35  # per image


def build_classifier(library: str, quick: bool) -> nn.Module:
    """Build BEiT-B at 224 px with a bias table per layer, mean pooling and 1000 classes."""
    if library == 'hf':
        from transformers import BeitConfig, BeitForImageClassification

        config = BeitConfig(
            use_relative_position_bias=True,
            num_labels=1000,
            attn_implementation='sdpa',
            **(hf_sizes() if quick else {}),
        )
        return BeitForImageClassification(config)
    if library == 'timm':
        from timm.models.beit import Beit

        sizes = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2) if quick else {}
        return Beit(use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, **sizes)
    arch, options = TOY if quick else 'base', dict(out_type='avg_featmap')
    if library == 'mmpretrain':
        from mmpretrain.models.backbones import BEiTViT

        init_default_scope('mmpretrain')
        body = BEiTViT(arch, use_abs_pos_emb=False, use_rel_pos_bias=True, **options)
    else:
        body = BEiT(arch, layer_scale=0.1, rel_pos_bias='per_layer', **options)
    return _Classifier(body, 32 if quick else 768)


class _Classifier(nn.Module):
    def __init__(self, body: nn.Module, channels: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(channels, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)[0])


def inference(settings: BenchmarkSettings) -> Iterator[dict]:
    models = {}
    for name in ('ours', *settings.installed('hf', 'timm', 'mmpretrain')):
        models[name] = build_classifier(name, settings.quick).to(DEVICE).eval()
    images = torch.randn(settings.batch, 3, 224, 224, device=DEVICE)

    def turn(model: nn.Module, dtype: torch.dtype) -> None:
        with torch.inference_mode(), autocast(dtype):
            model(images)

    for name, dtype in dtypes().items():
        turns = {who: partial(turn, model, dtype) for who, model in models.items()}
        times = take_turns(turns, settings.rounds)
        case, work, gflop = f'inference/{name}', settings.batch, GFLOP * settings.batch
        yield row(settings, case, 'images/s', times, work, gflop=gflop, dtype=dtype)


def build_segmentor(library: str, quick: bool) -> nn.Module:
    """Build our config's model, or mmseg's segmentor and BEiT with the same neck and head."""
    import mmseg.models  # noqa: F401 (registers)

    init_default_scope('mmseg')
    model = Config.fromfile(SEGMENTATION_CONFIG).model
    model.backbone.init_cfg, model.test_cfg = None, ConfigDict(model.test_cfg)
    for part in (model.neck, model.decode_head):
        part.norm_cfg = dict(type='BN')
    model.pop('auxiliary_head')
    backbone = dict(arch=dict(TOY, num_layers=4), img_size=64)
    if library == 'mmseg':
        model.type, model.decode_head.type = 'EncoderDecoder', 'UPerHead'
        out = dict(img_size=(512, 512), out_indices=(3, 5, 7, 11))
        model.backbone = dict(type='BEiT', init_values=0.1, qv_bias=True, **out)
        backbone = dict(embed_dims=32, num_layers=4, num_heads=2, mlp_ratio=2, img_size=(64, 64))
    if quick:
        model.backbone.update(backbone, out_indices=(0, 1, 2, 3))
        model.neck.embed_dim = 32
        model.decode_head.update(in_channels=[32] * 4, channels=8)
        model.test_cfg.update(crop_size=(64, 64), stride=(42, 42))
    return MODELS.build(model).to(DEVICE).eval()


def segment(settings: BenchmarkSettings) -> Iterator[dict]:
    """Time f32, as mmseg tests; on a CPU the larger image takes minutes and gets one round."""
    models = {}
    for name in ('ours', *settings.installed('mmseg')):
        models[name] = build_segmentor(name, settings.quick)
    for size in ((64, 85),) if settings.quick else IMAGE_SIZES:
        image = torch.randn(1, 3, *size, device=DEVICE)
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
        turns = {who: partial(model.inference, image, [meta]) for who, model in models.items()}
        is_slow = size[0] * size[1] > 10**6 and DEVICE == 'cpu'
        with torch.inference_mode():
            times = take_turns(turns, 1 if is_slow else settings.rounds, 0 if is_slow else 1)
        yield row(settings, f'segment/{size[0]}x{size[1]}', 'images/s', times, 1)
