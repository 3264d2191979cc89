"""mmpretrain's pre-training of BEiT v2 has our outputs, losses and gradients; its faults are named.

Each test of a fault fails once the library is fixed.
"""

import re
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import BEiTPretrainViT, BEiTV2Head, BEiTV2Neck
from small import make_pretrainer, same_tensors
from torch import Tensor, nn

from beit_mm.checkpoint import read_checkpoint
from beit_mm.checkpoint.loading import fit_checkpoint
from beit_mm.checkpoint.origins import from_ours, identify, to_ours
from beit_mm.models import BEiT, Tokenizer
from beit_mm.registry import MODELS

DEPTH, EARLY, K = 4, 2, 50
ARCH = dict(embed_dims=768, num_layers=DEPTH, num_heads=12, feedforward_channels=3072)
THEIR_ARCH = ARCH | dict(depth=DEPTH)  # the neck reads `depth`, see below
INIT = dict(type='TruncNormal', std=0.02, layer='Linear')  # as in mmpretrain's config


class TheirPretrainer(nn.Module):
    """Parts of mmpretrain's BEiT v2 without its tokenizer, joined as in its `BEiT.loss`."""

    def __init__(self, arch: dict = THEIR_ARCH, drop_path_rate: float = 0.0):
        super().__init__()
        self.backbone = BEiTPretrainViT(
            {k: v for k, v in arch.items() if k != 'depth'},
            out_indices=[EARLY - 1, -1],
            final_norm=False,
            drop_path_rate=drop_path_rate,
        )
        self.neck = BEiTV2Neck(2, EARLY, arch, drop_path_rate=drop_path_rate)
        self.head = BEiTV2Head(arch['embed_dims'], K, dict(type='mmpretrain.CrossEntropyLoss'))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of both outputs [B, N, D]."""
        outputs = self.backbone(image, mask)
        return self.neck(outputs, rel_pos_bias=self.backbone.shared_rel_pos_bias)


def make_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return dict(
        patch_view=torch.randn(2, 3, 224, 224, generator=generator, dtype=torch.float64),
        mask=torch.rand(2, 14, 14, generator=generator) < 0.35,
        token_ids=torch.randint(K, (2, 14, 14), generator=generator),
    )


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_outputs_losses_and_gradients_are_mmpretrains(randomize, tmp_path):
    theirs = randomize(TheirPretrainer())
    torch.save(dict(state_dict=theirs.state_dict()), tmp_path / 'theirs.pth')
    vae = dict(type='DiscreteVAE', vocab_size=K, width=8, blocks=1, width_in=4)
    target = dict(type='TokenTarget', tokenizer=vae)
    settings = dict(
        arch=ARCH, img_size=224, patch_size=16, rel_pos_bias='shared', layer_scale=0.1,
        patch_aggregation=dict(layer=EARLY),
    )  # fmt: skip
    ours = make_pretrainer(target, K, 100, **settings)
    found = read_checkpoint(str(tmp_path / 'theirs.pth'))
    assert found.origin == 'mmpretrain'
    missing, unexpected = ours.load_state_dict(found.state, strict=False)
    assert sorted(missing) == ['head.target_counts', 'target_fingerprint'] and not unexpected
    theirs, ours, inputs = theirs.double(), ours.double(), make_batch()

    mask, ids = inputs['mask'].flatten(1), inputs['token_ids'].flatten(1)
    features = theirs(inputs['patch_view'], inputs['mask'])
    patch_ids = torch.arange(196).expand(2, -1)
    own = ours.backbone(inputs['patch_view'], inputs['mask'], patch_ids)
    differences = {}
    for name, a, b in zip(('last', 'aggregated'), own, features, strict=True):
        logits = ours.head(a)[mask], theirs.head.cls_head(b[mask])
        assert logits[1].std() > 0.1
        differences[f'logits {name}'] = relative(*logits)

    expected = theirs.head.loss(*features, ids, inputs['mask'])
    losses = ours.loss(inputs)
    losses = losses['loss_last'], losses['loss_aggregated']
    for name, a, b in zip(('last', 'aggregated'), losses, expected, strict=True):
        differences[f'loss {name}'] = relative(a, b)
    sum(expected).backward()
    sum(losses).backward()
    gradients = to_ours({name: p.grad for name, p in theirs.named_parameters()}, 'mmpretrain')[0]
    own = {name: p.grad for name, p in ours.named_parameters()}
    assert own.keys() == gradients.keys()
    differences['gradients'] = max(relative(own[name], gradients[name]) for name in own)
    print('\nmmpretrain BEiT v2: ' + ', '.join(f'{k} {v:.1e}' for k, v in differences.items()))
    assert max(differences.values()) < 1e-10


def test_a_state_dict_of_mmpretrain_comes_back_bit_by_bit(randomize):
    """The buffers of the library are written as well."""
    small = dict(embed_dims=64, num_layers=3, num_heads=1, feedforward_channels=128, depth=3)
    state = randomize(TheirPretrainer(small)).state_dict()
    assert identify(state) == 'mmpretrain'
    ours, skipped = to_ours(state, 'mmpretrain')
    assert list(skipped) == ['backbone.rel_pos_bias.relative_position_index']
    assert same_tensors(from_ours(ours, 'mmpretrain'), dict(state))


def test_fine_tuning_reports_the_further_blocks_as_skipped(randomize, tmp_path):
    small = dict(embed_dims=64, num_layers=3, num_heads=1, feedforward_channels=128, depth=3)
    state = to_ours(randomize(TheirPretrainer(small)).state_dict(), 'mmpretrain')[0]
    arch = {k: v for k, v in small.items() if k != 'depth'}
    for origin in ('unilm', 'mmpretrain', 'beit_mm'):
        written = from_ours(state, origin)
        torch.save(dict(model=written), path := tmp_path / f'{origin}.pth')
        if origin == 'unilm':
            assert 'cls_pt_layers.1.attn.q_bias' in written
        model = BEiT(arch, rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap')
        _, report = fit_checkpoint(read_checkpoint(str(path)), model)
        reason = r"\d+ +skipped +cls_pt_layers\.\*\.mlp\.fc1\.weight \(BEiT v2's patch aggregation"
        assert re.search(reason, str(report)), report


class OtherTokenizer(Tokenizer):
    vocab_size, stride = K, 16


@pytest.mark.parametrize('is_v2', [True, False])
def test_a_head_of_another_kind_of_tokens_is_an_error(is_v2, randomize, tmp_path):
    """Both kinds of official heads have 8192 outputs, so shapes do not tell."""
    small = dict(embed_dims=64, num_layers=3, num_heads=1, feedforward_channels=128, depth=3)
    state = to_ours(randomize(TheirPretrainer(small)).state_dict(), 'mmpretrain')[0]
    if not is_v2:
        state = {key: value for key, value in state.items() if 'cls_pt_layers' not in key}
    torch.save(dict(model=from_ours(state, 'unilm')), tmp_path / 'a.pth')
    checkpoint = read_checkpoint(str(tmp_path / 'a.pth'))
    MODELS.register_module(module=OtherTokenizer, force=True)
    vae = dict(type='DiscreteVAE', vocab_size=K, width=8, blocks=1, width_in=4)
    arch = {k: v for k, v in small.items() if k != 'depth'}
    settings = dict(arch=arch, img_size=224, patch_size=16, rel_pos_bias='shared', layer_scale=0.1)
    if is_v2:
        settings['patch_aggregation'] = dict(layer=EARLY)
    models = [
        make_pretrainer(dict(type='TokenTarget', tokenizer=tokenizer), K, 75, **settings)
        for tokenizer in (vae, dict(type='OtherTokenizer'))
    ]
    wrong, right = models if is_v2 else models[::-1]
    message = 'VQKD .*has a DiscreteVAE' if is_v2 else 'a DiscreteVAE .*has a OtherTokenizer'
    with pytest.raises(ValueError, match=rf'a\.pth predicts the tokens of {message}.*init_cfg'):
        fit_checkpoint(checkpoint, wrong)
    state, _ = fit_checkpoint(checkpoint, right)
    assert 'head.proj.weight' in state


# -- faults of mmpretrain


def test_mmpretrain_undoes_the_rescaling_of_the_further_blocks():
    """Its neck rescales in its constructor, and `init_weights` then draws the weights again."""
    torch.manual_seed(0)
    arch = dict(embed_dims=128, num_layers=4, num_heads=2, feedforward_channels=256, depth=4)
    neck = BEiTV2Neck(2, EARLY, arch)
    neck.init_weights()
    ours = BEiT({k: v for k, v in arch.items() if k != 'depth'}, patch_aggregation=dict(layer=2))
    ours.init_weights()
    for layer, (their_block, block) in enumerate(
        zip(neck.patch_aggregation, ours.cls_pt_layers, strict=True), EARLY + 1
    ):
        pairs = (
            (their_block.attn.proj, their_block.attn.qkv, block.attn.proj, block.attn.qkv),
            (their_block.ffn.layers[1], their_block.ffn.layers[0][0], block.mlp.fc2, block.mlp.fc1),
        )
        for rescaled, plain, own_rescaled, own_plain in pairs:
            ratio = rescaled.weight.std() / plain.weight.std()
            own_ratio = own_rescaled.weight.std() / own_plain.weight.std()
            assert ratio.item() == pytest.approx(1, rel=0.05)
            assert own_ratio.item() == pytest.approx((2 * layer) ** -0.5, rel=0.05)


def test_mmpretrains_neck_needs_the_depth_twice():
    """It checks a custom arch for `num_layers` and reads `depth`."""
    with pytest.raises(KeyError, match='depth'):
        BEiTV2Neck(2, EARLY, ARCH)


def test_mmpretrain_decays_the_last_norm():
    """Its rule names '.ln', and the norm of its neck is called `norm`."""
    folder = Path(mmpretrain.__path__[0]) / '.mim/configs/beitv2'
    cfg = Config.fromfile(folder / 'beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k.py')
    small = dict(embed_dims=64, num_layers=3, num_heads=1, feedforward_channels=128, depth=3)
    model = TheirPretrainer(small)
    cfg.optim_wrapper.update(type='OptimWrapper', loss_scale=None)
    cfg.optim_wrapper.pop('loss_scale')
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decays = {
        id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']
    }
    names = {name: decays[id(p)] for name, p in model.named_parameters()}
    decayed = sorted(name for name, p in model.named_parameters() if p.ndim == 1 and names[name])
    assert decayed == ['neck.norm.weight']
