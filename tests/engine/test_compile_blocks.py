"""Compiled blocks give the same results from a few shared graphs, and nothing needs a compiler."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from beit_mm.engine.hooks.compile_blocks import CompileBlocks, compile_blocks
from beit_mm.models import BEiT, TokenTarget
from beit_mm.registry import MODELS

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=32, num_layers=6, num_heads=4, feedforward_channels=64)
TOKENIZER = dict(type='DiscreteVAE', vocab_size=32, width=8, blocks=1, width_in=8)


def make_backbone(**more) -> BEiT:
    torch.manual_seed(0)
    settings = dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True, drop_path_rate=0.3)
    model = BEiT(ARCH, 32, 8, **settings, **more)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch._dynamo.reset()
    return model.double().train()


@pytest.fixture
def backbone() -> BEiT:
    return make_backbone()


def train(model: BEiT, patch_ids: torch.Tensor) -> tuple[torch.Tensor, list]:
    """Return the output and the gradients of one step."""
    torch.manual_seed(1)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    model.zero_grad()
    out = torch.cat(model(x, None, patch_ids))
    out.square().sum().backward()
    return out, [p.grad for p in model.parameters() if p.grad is not None]


def test_all_blocks_share_a_few_graphs_and_compute_the_same(backbone):
    patch_ids = torch.tensor([[0, 3, 5], [1, 2, 15], [4, 6, 7]])
    expected = train(copy.deepcopy(backbone), patch_ids)
    names, counter = list(backbone.state_dict()), CompileCounter()
    assert compile_blocks(backbone, counter) == 6
    torch.testing.assert_close(train(backbone, patch_ids), expected)
    # One graph each for the first block (never dropped), the middle ones, and the last (some rows).
    assert counter.frame_count <= 3
    assert list(backbone.state_dict()) == names


def test_blocks_of_patch_aggregation_are_compiled_as_well():
    backbone = make_backbone(patch_aggregation=dict(layer=4))
    patch_ids = torch.tensor([[0, 3, 5], [1, 2, 15], [4, 6, 7]])
    expected, counter = train(copy.deepcopy(backbone), patch_ids), CompileCounter()
    assert compile_blocks(backbone, counter) == 8
    torch.testing.assert_close(train(backbone, patch_ids), expected)
    # One more graph, for the rows of the last block, which has [CLS] besides the patches.
    assert counter.frame_count <= 4


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_tokenizer_is_one_graph_that_gives_the_same_ids(tmp_path, dtype):
    torch.manual_seed(0)
    torch._dynamo.reset()
    path, views = str(tmp_path / 'tokenizer.pth'), torch.rand(2, 3, 32, 32)
    torch.save(MODELS.build(TOKENIZER).state_dict(), path)
    model = torch.nn.Module()
    model.target = TokenTarget(TOKENIZER, path, dtype=dtype)
    expected = model.target(dict(token_view=views))
    counter = CompileCounter()
    assert compile_blocks(model, counter) == 1
    assert torch.equal(model.target(dict(token_view=views)), expected)
    assert counter.frame_count == 1
    model.target = TokenTarget(TOKENIZER)  # without weights, for cached ids
    assert compile_blocks(model, counter) == 1
    assert torch.equal(model.target(dict(token_ids=expected)), expected)


def start(model: BEiT, hook: CompileBlocks) -> bool:
    """Return whether the hook compiles the blocks."""
    hook.before_train(SimpleNamespace(model=model, logger=logging.getLogger('compile')))
    return all('branches' in vars(block) for block in model.blocks)


def test_without_a_compiler_a_warning_is_logged(backbone, monkeypatch, caplog):
    from torch._inductor import cpp_builder

    monkeypatch.setenv('CXX', '/no/such/compiler')
    monkeypatch.setattr('torch._inductor.config.cpp.cxx', ('/no/such/compiler',))
    for name in ('get_cpp_compiler', 'check_compiler_exist_windows'):
        if hasattr(getattr(cpp_builder, name), 'cache_clear'):
            getattr(cpp_builder, name).cache_clear()
    assert not start(backbone, CompileBlocks(cpu=True))
    assert 'blocks are not compiled, so training is slower' in caplog.text


def test_a_cpu_compiles_only_on_request(backbone, caplog):
    caplog.set_level(logging.INFO)
    assert not start(backbone, CompileBlocks('eager')) and 'cpu=True' in caplog.text
    assert start(backbone, CompileBlocks('eager', cpu=True))
