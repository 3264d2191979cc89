"""Classification images a second, and segmentation of whole images by sliding windows beside mmseg's own loop."""

from collections.abc import Iterator

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from beit_mm.models import BEiT

from .steps import DEVICE, ROOT, TOY, precisions, present
from .turns import PEAK, Settings, Turn, matrix_product, row, take_turns

CONFIG = ROOT / 'configs/segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
PEERS = dict(hf=(None, 'transformers'), timm=(None, 'timm'), mmpretrain=(None, 'mmpretrain'))
SIZES = ((512, 683), (1024, 2048))


def classifier(name: str, settings: Settings) -> nn.Module:
    """BEiT-B at 224 px with a table a layer, the mean pooled, 1000 classes, of each library."""
    toy = TOY if settings.quick else None
    if name == 'hf':
        from transformers import BeitConfig, BeitForImageClassification

        sizes = (
            dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
            if toy
            else {}
        )
        return BeitForImageClassification(
            BeitConfig(
                use_relative_position_bias=True,
                num_labels=1000,
                attn_implementation='sdpa',
                **sizes,
            )
        )
    if name == 'timm':
        from timm.models.beit import Beit

        sizes = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2) if toy else {}
        return Beit(use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, **sizes)
    if name == 'mmpretrain':
        from mmpretrain.models.backbones import BEiTViT

        init_default_scope('mmpretrain')
        body = BEiTViT(
            toy or 'base', out_type='avg_featmap', use_abs_pos_emb=False, use_rel_pos_bias=True
        )
    else:
        body = BEiT(
            toy or 'base', layer_scale=0.1, rel_pos_bias='per_layer', out_type='avg_featmap'
        )

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = body, nn.Linear(32 if toy else 768, 1000)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(images)[0])

    return Classifier()


def inference(settings: Settings) -> Iterator[dict]:
    models = {name: classifier(name, settings) for name in ('ours', *present(settings, PEERS))}
    models = {name: model.to(DEVICE).train(False) or model for name, model in models.items()}
    images = torch.randn(settings.batch, 3, 224, 224, device=DEVICE)
    for name, bf16 in precisions():

        def turn(model: nn.Module, bf16: bool = bf16) -> None:
            with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
                model(images)

        turns = {who: lambda model=model, turn=turn: turn(model) for who, model in models.items()}
        turns[PEAK] = matrix_product(torch.bfloat16 if bf16 else torch.float32)
        times = take_turns(turns, settings.rounds)
        flop = None if settings.quick else 35e9 * settings.batch
        yield row(f'inference/{name}', 'images/s', times, settings.batch, flop=flop)


def segmentor(settings: Settings, kind: str) -> nn.Module:
    """Our config's model; of mmseg its own segmentor around its own BEiT, the rest the same."""
    import mmseg.models  # noqa: F401 (registers)
    from mmseg.registry import MODELS

    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmseg')
    model = cfg.model
    model.backbone.init_cfg, model.test_cfg = None, ConfigDict(model.test_cfg)
    for part in (model.neck, model.decode_head):
        part.norm_cfg = dict(type='BN')
    model.pop('auxiliary_head')
    if kind == 'mmseg':
        model.type, model.decode_head.type = 'EncoderDecoder', 'UPerHead'
        model.backbone = dict(
            type='BEiT',
            img_size=(512, 512),
            out_indices=(3, 5, 7, 11),
            init_values=0.1,
            qv_bias=True,
        )
    if settings.quick:
        if kind == 'mmseg':
            model.backbone.update(
                embed_dims=32, num_layers=4, num_heads=2, mlp_ratio=2, out_indices=(0, 1, 2, 3)
            )
            model.backbone.img_size = (64, 64)
        else:
            model.backbone.update(
                arch=dict(TOY, num_layers=4), img_size=64, out_indices=(0, 1, 2, 3)
            )
        model.neck.embed_dim = 32
        model.decode_head.update(in_channels=[32] * 4, channels=8)
        model.test_cfg.update(crop_size=(64, 64), stride=(42, 42))
    return MODELS.build(model).to(DEVICE)


def segment(settings: Settings) -> Iterator[dict]:
    """f32 on a CPU, as mmseg tests; the larger image takes minutes there and gets one round."""
    kinds = ['ours'] + (['mmseg'] if 'mmseg' in settings.peers else [])
    models = {kind: segmentor(settings, kind) for kind in kinds}
    for model in models.values():
        model.train(False)
    for height, width in ((64, 85),) if settings.quick else SIZES:
        image = torch.randn(1, 3, height, width, device=DEVICE)
        size = (height, width)
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
        with torch.inference_mode():
            turns: dict[str, Turn] = {
                kind: lambda model=model, image=image, meta=meta: model.inference(
                    image, [dict(meta)]
                )
                for kind, model in models.items()
            }
            long = height * width > 10**6 and DEVICE == 'cpu'
            times = take_turns(turns, 1 if long else settings.rounds, warm_up=0 if long else 1)
        yield row(f'segment/{height}x{width}', 'images/s', times, 1)
