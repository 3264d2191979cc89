"""Pre-training steps of Hugging Face's and mmpretrain's BEiT.

Hugging Face has no tokenizer and mmpretrain's is DALL-E's code: both read tokens with that, under
the same autocast. Attention is `scaled_dot_product_attention` where possible, AdamW is fused.
"""

from collections.abc import Callable

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from .timing import DEVICE, TOY, BenchmarkSettings, Turn, autocast

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _training_step(
    model: nn.Module, loss: Loss, dtype: torch.dtype, batch: dict[str, Tensor]
) -> Turn:
    """Return a whole step; `loss` takes images, token views and masks."""
    model = model.to(DEVICE).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05, fused=True)
    images = batch['patch_view'].float() / 128 - 1  # ours are normalized within the step
    views = batch['token_view'].float() / 255 * 0.8 + 0.1

    def turn() -> None:
        with autocast(dtype):
            value = loss(images, views, batch['mask'])
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
        optimizer.zero_grad()

    return turn


def _dalle_encoder(settings: BenchmarkSettings) -> nn.Module:
    from mmpretrain.models.selfsup.cae import DALLEEncoder

    sizes = dict(n_hid=8, vocab_size=32, n_blk_per_group=1) if settings.quick else {}
    return DALLEEncoder(**sizes).to(DEVICE).eval().requires_grad_(False)


def tokenization(views: Tensor, settings: BenchmarkSettings, dtype: torch.dtype) -> Turn:
    encoder = _dalle_encoder(settings)

    def turn() -> None:
        with torch.no_grad(), autocast(dtype):
            encoder(views).argmax(1)

    return turn


def hf(settings: BenchmarkSettings, dtype: torch.dtype, batch: dict[str, Tensor]) -> Turn:
    from transformers import BeitConfig, BeitForMaskedImageModeling

    sizes = hf_sizes() | dict(vocab_size=32) if settings.quick else {}
    config = BeitConfig(
        use_mask_token=True,
        use_shared_relative_position_bias=True,
        layer_scale_init_value=0.1,
        drop_path_rate=0.1,
        attn_implementation='sdpa',
        **sizes,
    )
    model, tokenizer = BeitForMaskedImageModeling(config), _dalle_encoder(settings)

    def loss(images: Tensor, views: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            ids = tokenizer(views).argmax(1).flatten(1)
        mask = mask.flatten(1)
        return model(images, bool_masked_pos=mask, labels=ids[mask]).loss

    if settings.compile:
        layers = [part for part in model.modules() if type(part).__name__ == 'BeitLayer']
        _compile(*layers, tokenizer)
    return _training_step(model, loss, dtype, batch)


def hf_sizes() -> dict[str, int]:
    """Return the sizes of the toy model as Hugging Face names them."""
    names = ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
    return dict(zip(names, TOY.values(), strict=True))


def mmpretrain(settings: BenchmarkSettings, dtype: torch.dtype, batch: dict[str, Tensor]) -> Turn:
    from mmpretrain.models.backbones import BEiTViT  # noqa: F401 (registers)
    from mmpretrain.models.heads import BEiTV1Head
    from mmpretrain.models.selfsup.beit import BEiTPretrainViT

    dims, vocab_size = (TOY['embed_dims'], 32) if settings.quick else (768, 8192)
    init_default_scope('mmpretrain')
    backbone = BEiTPretrainViT(
        arch=dict(TOY) if settings.quick else 'base',
        patch_size=16,
        drop_path_rate=0.1,
        final_norm=True,
        out_type='raw',
        layer_scale_init_value=0.1,
    )
    head = BEiTV1Head(dims, vocab_size, dict(type='CrossEntropyLoss'))
    tokenizer = _dalle_encoder(settings)

    def loss(images: Tensor, views: Tensor, mask: Tensor) -> Tensor:  # as in mmpretrain's BEiT
        latent = backbone(images, mask)
        with torch.no_grad():
            target = tokenizer(views)
        return head.loss(latent[0], target, mask)

    if settings.compile:
        _compile(*backbone.layers, tokenizer)
    return _training_step(nn.ModuleList([backbone, head]), loss, dtype, batch)


def _compile(*modules: nn.Module) -> None:
    """Compile block by block, as ours: one graph for all blocks, which starts minutes sooner."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
    for module in modules:
        module.compile()


STEPS = dict(hf=hf, mmpretrain=mmpretrain)
