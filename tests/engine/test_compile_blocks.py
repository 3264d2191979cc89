"""Compiled blocks compute what they did, from a graph or two for all of them, and nothing needs a compiler."""

import copy
import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from beit_mm.engine import compile_blocks as module
from beit_mm.engine.compile_blocks import CompileBlocks, compile_blocks
from beit_mm.models import BEiT

ARCH = dict(embed_dims=32, num_layers=6, num_heads=4, feedforward_channels=64)


class Fake:
    """What the hook reads of a Runner."""

    def __init__(self, model):
        self.model, self.logger = model, logging.getLogger('compile')


@pytest.fixture
def backbone() -> BEiT:
    torch.manual_seed(0)
    model = BEiT(ARCH, 32, 8, rel_pos_bias='shared', layer_scale=0.1, mask_token=True, drop_path_rate=0.3)
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
    assert counter.frame_count <= 3  # first (never dropped), middle, last (chosen rows): not one for each of six
    assert list(backbone.state_dict()) == names


def test_without_a_compiler_the_log_says_so_and_nothing_changes(backbone, monkeypatch, caplog):
    monkeypatch.setenv('CXX', '/no/such/compiler')
    monkeypatch.setattr('torch._inductor.config.cpp.cxx', ('/no/such/compiler',))
    from torch._inductor import cpp_builder

    for name in ('get_cpp_compiler', 'check_compiler_exist_windows'):
        if hasattr(getattr(cpp_builder, name), 'cache_clear'):
            getattr(cpp_builder, name).cache_clear()
    assert module.no_compiler()
    with caplog.at_level(logging.WARNING):
        CompileBlocks().before_train(Fake(backbone))
    assert 'nothing is compiled' in caplog.text
    assert not any('branches' in vars(block) for block in backbone.blocks)
