"""Whole steps of pre-training: token targets, forward, backward, clipping and AdamW, of BEiT-B at 224 px.

Ours is what a config of configs/pretrain builds, with the wrapper, the guard and the log that `tools/train.py` gives it.
Hugging Face has no tokenizer and mmpretrain's is DALL-E's own code carried over: both read tokens with that, under the same
autocast. Their attention is `scaled_dot_product_attention` where they can, their AdamW fused, their clipping torch's.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from beit_mm.data.blockwise_mask import BlockwiseMask
from beit_mm.engine.bad_updates import leave_out_bad_updates
from beit_mm.engine.compile_blocks import compile_blocks
from beit_mm.engine.deferred_log import defer
from beit_mm.engine.launch import for_cpu, has_bfloat16
from beit_mm.models import BEiTPretrainer
from beit_mm.registry import MODELS

from .turns import PEAK, Settings, Turn, matrix_product, peak_memory, row, take_turns

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k.py'
GFLOP = dict(
    online=160, cached=108
)  # an image, all patches counted: encoder 35 forward, 70 backward, head 3, tokenizer 52
TOY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
TOY_TOKENIZER = dict(vocab_size=32, width=8, blocks=1, width_in=8)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CALLS = (
    5 if DEVICE == 'cuda' else 1
)  # steps of a turn: a GPU begins one while the host still writes down the last


def batch(size: int, vocab_size: int) -> dict[str, Tensor]:
    """A batch as our pipeline packs it: uint8 views, masks, and ids for the case that has them cached."""
    rng, mask = torch.Generator().manual_seed(0), BlockwiseMask(14, 75)
    np.random.seed(0)
    inputs = dict(
        patch_view=torch.randint(256, (size, 3, 224, 224), dtype=torch.uint8, generator=rng),
        token_view=torch.randint(256, (size, 3, 112, 112), dtype=torch.uint8, generator=rng),
        mask=torch.from_numpy(np.stack([mask.transform({})['mask'] for _ in range(size)])),
        token_ids=torch.randint(vocab_size, (size, 14, 14), generator=rng),
    )
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def pretrainer(settings: Settings, bf16: bool) -> tuple[Config, BEiTPretrainer]:
    """What the config of BEiT-B builds, with random weights."""
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    if settings.quick:
        cfg.model.backbone.arch, cfg.model.head.in_channels = TOY, TOY['embed_dims']
        cfg.model.target.tokenizer.update(TOY_TOKENIZER)
        cfg.model.head.out_channels = TOY_TOKENIZER['vocab_size']
    if not bf16:
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale')
        cfg.model.target.dtype = 'float32'
    elif DEVICE == 'cpu':
        for_cpu(cfg)  # bfloat16
    else:
        cfg.optim_wrapper.update(dtype='bfloat16', loss_scale=1.0)
    model = MODELS.build(cfg.model).to(DEVICE).train()
    model.target._loaded = True  # any weights take the same time
    return cfg, model


def ours(settings: Settings, bf16: bool, cached: bool) -> Turn:
    cfg, model = pretrainer(settings, bf16)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    updates = leave_out_bad_updates(wrapper, model)
    defer(wrapper.message_hub)
    if settings.compile:
        compile_blocks(model)
    inputs = batch(settings.batch, cfg.model.head.out_channels)
    inputs.pop('token_view' if cached else 'token_ids')

    def turn() -> None:
        model.train_step(dict(inputs=inputs), wrapper)
        updates.clear()  # the watchdog's

    return turn


class Theirs:
    """A step of another library's model: `loss(images, token views, masks)` is its own."""

    def __init__(
        self, model: nn.Module, loss: object, settings: Settings, bf16: bool, vocab_size: int
    ):
        self.model, self.loss, self.bf16 = model.to(DEVICE).train(), loss, bf16
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=1e-4,
            weight_decay=0.05,
            fused=True,
        )
        inputs = batch(settings.batch, vocab_size)
        self.inputs = (
            inputs['patch_view'].float() / 128 - 1,  # ours are normalised within the step
            inputs['token_view'].float() / 255 * 0.8 + 0.1,
            inputs['mask'],
        )

    def __call__(self) -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(*self.inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _dalle(settings: Settings) -> nn.Module:
    from mmpretrain.models.selfsup.cae import DALLEEncoder

    sizes = dict(n_hid=8, vocab_size=32, n_blk_per_group=1) if settings.quick else {}
    return DALLEEncoder(**sizes).to(DEVICE).eval().requires_grad_(False)


def hf(settings: Settings, bf16: bool) -> Turn:
    from transformers import BeitConfig, BeitForMaskedImageModeling

    arch = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=32,
    )
    config = BeitConfig(
        use_mask_token=True,
        use_shared_relative_position_bias=True,
        layer_scale_init_value=0.1,
        drop_path_rate=0.1,
        attn_implementation='sdpa',
        **(arch if settings.quick else {}),
    )
    model, tokenizer = BeitForMaskedImageModeling(config), _dalle(settings)

    def loss(images: Tensor, views: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            ids = tokenizer(views).argmax(1).flatten(1)
        mask = mask.flatten(1)
        return model(images, bool_masked_pos=mask, labels=ids[mask]).loss

    if settings.compile:
        _compile(
            *(part for part in model.modules() if type(part).__name__ == 'BeitLayer'), tokenizer
        )
    return Theirs(model, loss, settings, bf16, config.vocab_size)


def mmpretrain(settings: Settings, bf16: bool) -> Turn:
    from mmpretrain.models.backbones import BEiTViT  # noqa: F401 (registers)
    from mmpretrain.models.heads import BEiTV1Head
    from mmpretrain.models.selfsup.beit import BEiTPretrainViT

    arch = dict(TOY) if settings.quick else 'base'
    dims, vocab_size = (TOY['embed_dims'], 32) if settings.quick else (768, 8192)
    init_default_scope('mmpretrain')
    model = nn.ModuleDict(
        dict(
            backbone=BEiTPretrainViT(
                arch=arch,
                patch_size=16,
                drop_path_rate=0.1,
                final_norm=True,
                out_type='raw',
                layer_scale_init_value=0.1,
            ),
            head=BEiTV1Head(dims, vocab_size, dict(type='CrossEntropyLoss')),
        )
    )
    tokenizer = _dalle(settings)

    def loss(
        images: Tensor, views: Tensor, mask: Tensor
    ) -> Tensor:  # mmpretrain's BEiT.loss, word for word
        latent = model['backbone'](images, mask)
        with torch.no_grad():
            target = tokenizer(views)
        return model['head'].loss(latent[0], target, mask)

    if settings.compile:
        _compile(*model['backbone'].layers, tokenizer)
    return Theirs(model, loss, settings, bf16, vocab_size)


STEPS = dict(hf=(hf, 'transformers'), mmpretrain=(mmpretrain, 'mmpretrain'))


def _compile(*modules: nn.Module) -> None:
    """As ours are: one graph for all blocks instead of one for the model, minutes less to start."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
    for module in modules:
        module.compile()


def present(settings: Settings, known: dict) -> list[str]:
    """The peers asked for that are installed; says which is not."""
    found = [name for name in settings.peers if name in known and find_spec(known[name][1])]
    for name in settings.peers:
        if name in known and name not in found:
            print(f'{name} is left out: pip install {known[name][1]}')
    return found


def precisions() -> list[tuple[str, bool]]:
    """(name, whether it is bfloat16) of those that this device multiplies in."""
    if DEVICE == 'cpu' and not has_bfloat16():
        print('bf16 is left out: this CPU has no bfloat16')
        return [('f32', False)]
    return [('bf16', True), ('f32', False)]


def one_step(maker: object, *args: object) -> None:
    maker(*args)()


def step(settings: Settings) -> Iterator[dict]:
    peers = present(settings, STEPS)
    for name, bf16 in precisions():
        turns = dict(ours=ours(settings, bf16, False), cached=ours(settings, bf16, True))
        turns |= {peer: STEPS[peer][0](settings, bf16) for peer in peers}
        turns[PEAK] = matrix_product(torch.bfloat16 if bf16 else torch.float32)
        times = take_turns(turns, settings.rounds, 2 if settings.compile else 1, CALLS)
        times['online'] = times['ours']
        del turns
        for kind, mine, others in (
            ('online', 'ours', peers),
            ('cached', 'cached', ['online', *peers]),
        ):
            flop = None if settings.quick else GFLOP[kind] * 1e9 * settings.batch
            yield row(f'step/{name}/{kind}', 'images/s', times, settings.batch, mine, others, flop)


def _their_tokens(views: Tensor, settings: Settings, bf16: bool) -> Turn:
    encoder = _dalle(settings)

    def turn() -> None:
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            encoder(views).argmax(1)

    return turn


def tokenize(settings: Settings) -> Iterator[dict]:
    """Views of 112 px into ids: our target, and DALL-E's own encoder as mmpretrain has it."""
    views = batch(settings.batch, 1)['token_view']
    for name, bf16 in precisions():
        target = pretrainer(settings, bf16)[1].target
        turns: dict[str, Turn] = dict(
            ours=lambda target=target: target(dict(token_view=views.float() / 255))
        )
        if 'mmpretrain' in present(settings, STEPS):
            turns['mmpretrain'] = _their_tokens(views.float() / 255 * 0.8 + 0.1, settings, bf16)
        turns[PEAK] = matrix_product(torch.bfloat16 if bf16 else torch.float32)
        times = take_turns(turns, settings.rounds)
        flop = (
            None if settings.quick else (GFLOP['online'] - GFLOP['cached']) * 1e9 * settings.batch
        )
        yield row(f'tokenize/{name}', 'images/s', times, settings.batch, flop=flop)


def memory(settings: Settings) -> Iterator[dict]:
    """Peak memory of one step, four times the batch, each in a process of its own."""
    peers, (name, bf16) = present(settings, STEPS), precisions()[0]
    large = replace(settings, batch=4 * settings.batch)
    need = dict(ours=[peak_memory(one_step, ours, large, bf16, False)])
    need |= {peer: [peak_memory(one_step, STEPS[peer][0], large, bf16)] for peer in peers}
    found = row(f'step/{name}/memory', 'GiB', need, 1.0, rss=need['ours'][0])
    yield found | dict(ours=need['ours'][0], peers={peer: need[peer][0] for peer in peers})
