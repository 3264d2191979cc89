"""Linear layers are called wherever something is attached to them: hooks, adapters, pruning, norms, quantization, counters."""

import copy
from functools import partial

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmpretrain.models import LoRAModel
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from beit_mm.models import BEiT

SETTINGS = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=16, patch_size=8,
    rel_pos_bias='shared', layer_scale=0.1,
)  # fmt: skip
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
INDEX = torch.tensor([[3, 0], [1, 2]])


def randomise(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double().eval()


@pytest.fixture
def model() -> BEiT:
    return randomise(BEiT(**SETTINGS))


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def features(model: nn.Module, index: torch.Tensor | None = None) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    return model(IMAGE.to(dtype), None, index)[0]


@pytest.mark.parametrize('index', [None, INDEX], ids=['all rows', 'some rows'])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('gradients', [True, False])
@pytest.mark.parametrize('everywhere', [True, False])
def test_hooks_on_every_linear_layer_are_called_once(model, index, training, gradients, everywhere):
    wanted = features(model, index)
    called: dict[str, list[str]] = {name: [] for name in linears(model)}
    names = {module: name for name, module in linears(model).items()}

    def note(kind: str, module: nn.Module, *_) -> None:
        if module in names:
            called[names[module]].append(kind)

    backward = dict(backward_pre='full_backward_pre', backward='full_backward') if gradients else {}
    kinds = dict(forward_pre='forward_pre', forward='forward') | backward
    handles = []
    for kind, name in kinds.items():
        if everywhere:
            handles.append(
                getattr(nn.modules.module, f'register_module_{name}_hook')(partial(note, kind))
            )
        else:
            handles += [
                getattr(module, f'register_{name}_hook')(partial(note, kind)) for module in names
            ]
    try:
        with torch.set_grad_enabled(gradients):
            found = features(model.train(training), index)
        if gradients:
            found.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert called == {name: list(kinds) for name in called}


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 0.5


def replace(model: nn.Module, make) -> None:
    for name, module in linears(model).items():
        model.set_submodule(name, make(module))


def shifted(linear: nn.Linear) -> nn.Linear:
    made = Shifted(linear.in_features, linear.out_features, linear.bias is not None).double()
    made.load_state_dict(linear.state_dict())
    return made


def with_bias(linear: nn.Linear) -> nn.Linear:
    made = nn.Linear(linear.in_features, linear.out_features).double()
    made.weight = linear.weight
    return made


def patched(linear: nn.Linear) -> nn.Linear:
    linear.forward = lambda x, stock=linear.forward: 2 * stock(x)
    return linear


ATTACHED = {
    'prune': lambda linear: prune.random_unstructured(linear, 'weight', 0.5),
    'weight_norm': lambda linear: weight_norm(linear),
    'spectral_norm': lambda linear: spectral_norm(linear).eval(),
    'parametrized': lambda linear: parametrizations.weight_norm(linear),
    'registered': lambda linear: (
        nn.utils.parametrize.register_parametrization(linear, 'weight', Doubled()) or linear
    ),
    'subclass': shifted,
    'own bias': with_bias,
    'patched': patched,
}


@pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated')
@pytest.mark.parametrize('index', [None, INDEX], ids=['all rows', 'some rows'])
@pytest.mark.parametrize('attached', ATTACHED)
def test_what_is_attached_to_a_layer_counts(model, attached, index):
    """The same as with plain layers of the weights and biases that the attached ones turn out to have."""
    plain = copy.deepcopy(model)
    replace(model, ATTACHED[attached])
    for name, module in linears(model).items():
        if attached == 'weight_norm':
            module.weight_g.data *= 3
        ours = plain.get_submodule(name)
        with torch.no_grad():
            bias = module(torch.zeros(1, ours.in_features).double())[0]
            ours.weight.copy_((module(torch.eye(ours.in_features).double()) - bias).T)
        if ours.bias is not None:
            ours.bias.data = bias
        else:
            dims = len(bias) // 3
            owner = plain.get_submodule(name.rpartition('.')[0])
            owner.q_bias.data += bias[
                :dims
            ]  # of keys any bias changes nothing: the softmax is the same
            owner.v_bias.data += bias[-dims:]
    wanted = features(plain, index)
    for _ in range(2):
        found = features(model, index)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        found.square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(features(model, index), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_layers_that_are_quantized_are_used(model):
    wanted = features(model.float()).detach()
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not linears(quantized)
    for index, expected in (
        (None, wanted),
        (INDEX, wanted.gather(1, 1 + INDEX[..., None].expand(-1, -1, 16))),
    ):
        difference = (features(quantized, index) - expected).norm() / expected.norm()
        assert 1e-4 < difference < 0.1


def lora(**settings) -> LoRAModel:
    targets = [dict(type=name) for name in ('qkv', 'attn.proj', 'fc1', 'fc2')]
    return LoRAModel(
        dict(type='beit_mm.BEiT', **SETTINGS | settings), alpha=2, rank=2, targets=targets
    ).double()


@pytest.mark.parametrize('index', [None, INDEX], ids=['all rows', 'some rows'])
def test_adapters_of_mmpretrain_change_the_output_learn_and_can_be_merged(index):
    adapted = lora()
    randomise(adapted.module)
    layers = {
        name: module
        for name, module in adapted.module.named_modules()
        if hasattr(module, 'lora_up')
    }
    assert len(layers) == 8
    for layer in layers.values():
        nn.init.zeros_(layer.lora_up.weight)
    before = features(adapted, index)
    for layer in layers.values():
        nn.init.normal_(layer.lora_up.weight, std=0.3)
    found = features(adapted, index)
    assert (found - before).abs().max() > 1e-2
    found.square().sum().backward()
    for name, parameter in adapted.named_parameters():
        assert ('.lora_' in name) == (parameter.grad is not None)
        assert parameter.grad is None or parameter.grad.any()
    for name, layer in layers.items():
        layer.original_layer.weight.data += (
            layer.scaling * layer.lora_up.weight.data @ layer.lora_down.weight.data
        )
        adapted.module.set_submodule(name, layer.original_layer)
    torch.testing.assert_close(features(adapted, index), found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    'positions', [dict(), dict(rel_pos_bias=None, abs_pos_embed=True)], ids=['relative', 'absolute']
)
@pytest.mark.parametrize('training', [True, False])
def test_the_flop_counter_of_mmengine_counts_every_product(positions, training):
    model = BEiT(**SETTINGS | positions, drop_path_rate=0.5).train(training)
    n, d, hidden = 5, 16, 32
    products = 4 * 3 * 64 * d + 2 * (n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * hidden)
    norms = (2 * 2 + 1) * n * d * 5  # five operations an element, as mmengine counts them
    with torch.set_grad_enabled(training):
        found = get_model_complexity_info(model, (3, 16, 16), show_table=False, show_arch=False)
    assert found['flops'] == products + norms
