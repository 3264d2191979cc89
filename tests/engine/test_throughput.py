"""The logged throughput follows from what happened, whatever the machine."""

import time

import pytest
import torch
from mmengine.model import BaseModel

from beit_mm.engine.hooks.throughput import Throughput, count_images


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.layer(inputs['view']).square().mean())


class Slow(list):
    def __getitem__(self, index: int) -> dict:
        time.sleep(0.01)
        return dict(inputs=dict(view=torch.randn(2)))


def test_each_line_of_the_log_has_throughput_data_time_and_utilization(train):
    hook = Throughput(gflop_per_image=2.0)  # measures the peak
    runner = train(Toy(), Slow(range(24)), hook, iters=6, batch_size=4)
    logged = runner.message_hub.log_scalars
    rates, waits, shares = (
        logged[f'train/{name}'].data[0] for name in ('images_per_s', 'data_time_frac', 'mfu')
    )
    assert len(rates) == len(waits) == len(shares) == 2
    assert (rates > 0).all() and (rates <= 12 / (12 * 0.01)).all()  # no faster than the loader
    assert (waits > 0).all() and (waits < 1).all()
    assert hook.peak_tflops > 0 and shares == pytest.approx(rates * 2.0 / (hook.peak_tflops * 1e3))
    if not torch.cuda.is_available():
        assert logged['train/peak_rss_mib'].current() > 50


def test_images_of_any_batch_are_counted():
    view = torch.zeros(5, 3, 8, 8)
    assert count_images(dict(inputs=dict(view=view))) == 5
    assert count_images(dict(inputs=[view[0]] * 5, data_samples=[])) == 5
    assert count_images(None) == 0
