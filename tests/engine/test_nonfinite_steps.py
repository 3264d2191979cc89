"""Which steps are skipped, without waiting for the device, and which of them count."""

import math

import pytest
import torch
from engine.test_watchdog import BadGradient
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from beit_mm.engine.nonfinite_steps import skip_nonfinite_steps

pytestmark = pytest.mark.any_stack


class DeviceReads(TorchDispatchMode):
    """Count the operations that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        self.count += function in (aten._local_scalar_dense.default, aten.is_nonzero.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('fused', [True, False])
def test_a_fused_optimizer_skips_without_a_read_of_the_device(fused):
    model = nn.Linear(3, 1)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), fused=fused))
    steps = skip_nonfinite_steps(wrapper, model)
    with DeviceReads() as reads:
        for value in (1.0, math.nan, 1.0):
            with wrapper.optim_context(model):
                loss = model(torch.full((2, 3), value)).sum()
            wrapper.update_params(loss)
    assert (reads.count == 0) == fused
    assert [bool(step.skipped) for step in steps] == [False, True, False]


def test_steps_that_a_loss_scaler_skips_to_find_its_scale_do_not_count():
    model = nn.Linear(3, 1)
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)  # its __init__ needs a GPU
    OptimWrapper.__init__(wrapper, torch.optim.SGD(model.parameters(), lr=0.0))
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
    wrapper._scale_update_param = None
    steps = skip_nonfinite_steps(wrapper, model)
    overflow = lambda: (model.weight * 1e38).sum()  # noqa: E731
    infinite = lambda: model.weight.sum() + math.inf  # noqa: E731
    expected = [(overflow, 8.0), (overflow, 4.0), (infinite, 2.0), (overflow, 1.0), (infinite, 1.0)]
    for loss, scale in expected:
        assert wrapper.loss_scaler.get_scale() == scale
        wrapper.update_params(loss())
    for loss in (model.weight.sum, lambda: BadGradient.apply(model.weight).sum()):
        wrapper.loss_scaler.update(1.0)
        wrapper.update_params(loss())
    skipped = [bool(step.skipped) for step in steps]
    assert skipped == [True, True, True, False, True, False, True]
    counts = [bool(step.counts) for step in steps]
    assert counts == [False, False, True, False, True, False, True]
