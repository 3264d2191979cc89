"""Compiled blocks compute what they did, from a graph or two for all of them, and nothing needs a compiler."""

import copy
import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from beit_mm.engine.hooks import compile_blocks as module
from beit_mm.engine.hooks.compile_blocks import CompileBlocks, compile_blocks
from beit_mm.models import BEiT, TokenTarget
from beit_mm.registry import MODELS

ARCH = dict(embed_dims=32, num_layers=6, num_heads=4, feedforward_channels=64)


class Fake:
    """What the hook reads of a Runner."""

    def __init__(self, model):
        self.model, self.logger = model, logging.getLogger('compile')


@pytest.fixture
def backbone() -> BEiT:
    torch.manual_seed(0)
    model = BEiT(
        ARCH, 32, 8, rel_pos_bias='shared', layer_scale=0.1, mask_token=True, drop_path_rate=0.3
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    torch._dynamo.reset()
    return model.double().train()


def gradients(model: BEiT, index: torch.Tensor) -> tuple[torch.Tensor, list]:
    torch.manual_seed(1)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    model.zero_grad()
    out = model(x, None, index)[0]
    out.square().sum().backward()
    return out, [p.grad for p in model.parameters() if p.grad is not None]


def test_one_graph_does_for_all_blocks_and_computes_the_same(backbone):
    index = torch.tensor([[0, 3, 5], [1, 2, 15], [4, 6, 7]])
    expected, wanted = gradients(copy.deepcopy(backbone), index)
    counter = CompileCounter()
    names = list(backbone.state_dict())
    assert compile_blocks(backbone, counter) == 6
    found, grads = gradients(backbone, index)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(grads, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert (
        counter.frame_count <= 3
    )  # first (never dropped), middle, last (chosen rows): not one for each of six
    assert list(backbone.state_dict()) == names


def test_the_tokenizer_is_one_graph_that_gives_the_same_ids(tmp_path):
    torch.manual_seed(0)
    torch._dynamo.reset()
    small = dict(type='DiscreteVAE', vocab_size=32, width=8, blocks=1, width_in=8)
    path, views = str(tmp_path / 'tokenizer.pth'), torch.rand(2, 3, 32, 32)
    torch.save(MODELS.build(small).state_dict(), path)
    for dtype in ('float32', 'bfloat16'):
        model = torch.nn.Module()
        model.target = TokenTarget(small, path, dtype=dtype)
        expected = model.target(dict(token_view=views))
        counter = CompileCounter()
        assert compile_blocks(model, counter) == 1
        assert torch.equal(model.target(dict(token_view=views)), expected)
        assert counter.frame_count == 1


def test_cached_ids_need_no_tokenizer_compiled_or_not():
    model = torch.nn.Module()
    model.target = TokenTarget(
        dict(type='DiscreteVAE', vocab_size=32, width=8, blocks=1, width_in=8)
    )
    assert compile_blocks(model, 'eager') == 1
    ids = torch.randint(32, (2, 4, 4))
    assert torch.equal(model.target(dict(token_ids=ids)), ids)
    with pytest.raises(FileNotFoundError, match='need a trained tokenizer'):
        model.target(dict(token_view=torch.rand(2, 3, 32, 32)))


def test_without_a_compiler_the_log_says_so_and_nothing_changes(backbone, monkeypatch, caplog):
    monkeypatch.setenv('CXX', '/no/such/compiler')
    monkeypatch.setattr('torch._inductor.config.cpp.cxx', ('/no/such/compiler',))
    from torch._inductor import cpp_builder

    for name in ('get_cpp_compiler', 'check_compiler_exist_windows'):
        if hasattr(getattr(cpp_builder, name), 'cache_clear'):
            getattr(cpp_builder, name).cache_clear()
    assert module.find_compiler_error()
    with caplog.at_level(logging.WARNING):
        CompileBlocks(cpu=True).before_train(Fake(backbone))
    assert 'blocks are not compiled, so training is slower' in caplog.text
    assert not any('branches' in vars(block) for block in backbone.blocks)


def test_on_a_cpu_only_when_asked(backbone, caplog):
    with caplog.at_level(logging.INFO):
        CompileBlocks('eager').before_train(Fake(backbone))
    assert 'cpu=True' in caplog.text and not any(
        'branches' in vars(block) for block in backbone.blocks
    )
    CompileBlocks('eager', cpu=True).before_train(Fake(backbone))
    assert all('branches' in vars(block) for block in backbone.blocks)
