"""Linear layers are called if anything is attached: hooks, adapters, pruning, quantization, counters."""

import copy
from functools import partial

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmpretrain.models import LoRAModel
from small import randomize
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from beit_mm.models import BEiT

SETTINGS = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=16, patch_size=8,
    rel_pos_bias='shared', layer_scale=0.1,
)  # fmt: skip
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
PATCH_IDS = torch.tensor([[3, 0], [1, 2]])
parametrize_patch_ids = pytest.mark.parametrize(
    'patch_ids', [None, PATCH_IDS], ids=['all patches', 'some patches']
)


@pytest.fixture
def model() -> BEiT:
    torch.manual_seed(0)
    return randomize(BEiT(**SETTINGS)).double().eval()


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def features(model: nn.Module, patch_ids: torch.Tensor | None = None) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    return model(IMAGE.to(dtype), None, patch_ids)[0]


@parametrize_patch_ids
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('gradients', [True, False])
@pytest.mark.parametrize('is_global', [True, False])
def test_hooks_on_every_linear_layer_are_called_once(
    model, patch_ids, training, gradients, is_global
):
    expected = features(model, patch_ids)
    names = {module: name for name, module in linears(model).items()}
    called = {name: [] for name in names.values()}

    def note(kind: str, module: nn.Module, *_) -> None:
        if module in names:
            called[names[module]].append(kind)

    kinds = ['forward_pre', 'forward']
    if gradients:
        kinds += ['full_backward_pre', 'full_backward']
    handles = []
    for kind in kinds:
        register = f'register_{kind}_hook'
        if is_global:
            register = f'register_module_{kind}_hook'
        owners = [nn.modules.module] if is_global else names
        handles += [getattr(owner, register)(partial(note, kind)) for owner in owners]
    try:
        with torch.set_grad_enabled(gradients):
            found = features(model.train(training), patch_ids)
        if gradients:
            found.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert called == {name: kinds for name in called}


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def triple_weight_norm(linear: nn.Linear) -> nn.Linear:
    weight_norm(linear).weight_g.data *= 3
    return linear


def register_doubled(linear: nn.Linear) -> nn.Linear:
    nn.utils.parametrize.register_parametrization(linear, 'weight', Doubled())
    return linear


ATTACHED = {
    'prune': lambda linear: prune.random_unstructured(linear, 'weight', 0.5),
    'weight_norm': triple_weight_norm,
    'spectral_norm': lambda linear: spectral_norm(linear).eval(),
    'parametrized weight_norm': lambda linear: parametrizations.weight_norm(linear),
    'parametrization': register_doubled,
}


@pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated')
@parametrize_patch_ids
@pytest.mark.parametrize('attached', ATTACHED)
def test_what_is_attached_to_a_layer_counts(model, attached, patch_ids):
    """The features equal those of plain layers with the weights that the attached ones apply."""
    plain = copy.deepcopy(model)
    for name, linear in linears(model).items():
        layer = ATTACHED[attached](linear)
        model.set_submodule(name, layer)
        with torch.no_grad():
            inputs = plain.get_submodule(name).in_features
            bias = layer(torch.zeros(1, inputs).double())[0]
            weight = (layer(torch.eye(inputs).double()) - bias).T
            set_weights(plain, name, weight, bias)
    expected = features(plain, patch_ids)
    for _ in range(2):
        found = features(model, patch_ids)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        found.square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(features(model, patch_ids), expected, rtol=1e-10, atol=1e-10)


def set_weights(model: BEiT, name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
    linear = model.get_submodule(name)
    linear.weight.copy_(weight)
    if linear.bias is not None:
        linear.bias.copy_(bias)
        return
    attention = model.get_submodule(name.rpartition('.')[0])
    dims = len(attention.q_bias)
    attention.q_bias += bias[:dims]  # a bias of keys does not change the softmax
    attention.v_bias += bias[-dims:]


@parametrize_patch_ids
def test_adapters_of_mmpretrain_change_the_output_learn_and_can_be_merged(patch_ids):
    targets = [dict(type=name) for name in ('qkv', 'attn.proj', 'fc1', 'fc2')]
    backbone = dict(type='beit_mm.BEiT', **SETTINGS)
    adapted = LoRAModel(backbone, alpha=2, rank=2, targets=targets).double()
    randomize(adapted.module).eval()
    modules = dict(adapted.module.named_modules())
    layers = {name: layer for name, layer in modules.items() if hasattr(layer, 'lora_up')}
    assert len(layers) == 8
    for layer in layers.values():
        nn.init.zeros_(layer.lora_up.weight)
    before = features(adapted, patch_ids)
    for layer in layers.values():
        nn.init.normal_(layer.lora_up.weight, std=0.3)
    found = features(adapted, patch_ids)
    assert (found - before).abs().max() > 1e-2
    found.square().sum().backward()
    for name, parameter in adapted.named_parameters():
        assert ('.lora_' in name) == (parameter.grad is not None)
        assert parameter.grad is None or parameter.grad.any()
    for name, layer in layers.items():
        product = layer.lora_up.weight.data @ layer.lora_down.weight.data
        layer.original_layer.weight.data += layer.scaling * product
        adapted.module.set_submodule(name, layer.original_layer)
    torch.testing.assert_close(features(adapted, patch_ids), found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('positions', [dict(), dict(rel_pos_bias=None, abs_pos_embed=True)])
@pytest.mark.parametrize('training', [True, False])
def test_the_flop_counter_of_mmengine_counts_every_product(positions, training):
    model = BEiT(**SETTINGS | positions, drop_path_rate=0.5).train(training)
    n, d, hidden = 5, 16, 32
    products = 4 * 3 * 64 * d + 2 * (n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * hidden)
    norms = (2 * 2 + 1) * n * d * 5  # mmengine counts five operations per element
    with torch.set_grad_enabled(training):
        found = get_model_complexity_info(model, (3, 16, 16), show_table=False, show_arch=False)
    assert found['flops'] == products + norms


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_quantized_layers_are_used(model):
    expected = features(model.float()).detach()
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not linears(quantized)
    chosen = expected.gather(1, 1 + PATCH_IDS[..., None].expand(-1, -1, 16))
    for patch_ids, wanted in ((None, expected), (PATCH_IDS, chosen)):
        difference = (features(quantized, patch_ids) - wanted).norm() / wanted.norm()
        assert 1e-4 < difference < 0.1
