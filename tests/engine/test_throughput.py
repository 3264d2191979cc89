"""The logged throughput follows from what happened, whatever the machine."""

import time

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

from beit_mm.engine.hooks.throughput import Throughput, count_images, matmul_peak


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.layer(inputs['view']).square().mean())


class Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict:
        time.sleep(0.01)
        return dict(inputs=dict(view=torch.randn(2)))


def test_each_line_of_the_log_has_throughput_data_time_and_utilization(tmp_path):
    loader = dict(
        dataset=Slow(),
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    runner = Runner(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=3), checkpoint=None),
        custom_hooks=[Throughput(gflop_per_image=2.0, peak_tflops=0.001)],
        experiment_name=tmp_path.name,
        log_level='ERROR',
    )
    runner.train()
    logged = runner.message_hub.log_scalars
    rates, waits, shares = (
        logged[f'train/{name}'].data[0] for name in ('images_per_s', 'data_time_frac', 'mfu')
    )
    assert len(rates) == len(waits) == len(shares) == 2
    assert (rates > 0).all() and (rates <= 12 / (12 * 0.01)).all()  # no faster than the loader
    assert (waits > 0).all() and (waits < 1).all()
    assert shares == pytest.approx(rates * 2.0 / 1.0)
    if not torch.cuda.is_available():
        assert logged['train/peak_rss_mib'].current() > 50


def test_images_of_any_batch_are_counted():
    view = torch.zeros(5, 3, 8, 8)
    assert count_images(dict(inputs=dict(view=view))) == 5
    assert count_images(dict(inputs=[view[0]] * 5, data_samples=[])) == 5
    assert count_images(None) == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_peak_is_measured(dtype):
    assert matmul_peak(torch.device('cpu'), dtype) > 0
