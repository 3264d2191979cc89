"""The log says how fast a run is: numbers that follow from what happened, whatever the machine."""

import time

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

from beit_mm.engine.hooks.throughput import Throughput, images_of, matmul_peak


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


def train(tmp_path, hook: Throughput) -> dict:
    runner = Runner(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Slow(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=3), checkpoint=None),
        custom_hooks=[hook],
        experiment_name=tmp_path.name,
        log_level='ERROR',
    )  # fmt: skip
    runner.train()
    return {key: list(buffer.data[0]) for key, buffer in runner.message_hub.log_scalars.items()}


def test_each_log_tells_images_a_second_the_wait_for_data_and_the_share_of_the_peak(tmp_path):
    logged = train(tmp_path, Throughput(gflop_per_image=2.0, peak_tflops=0.001))
    assert all(
        len(logged[f'train/{name}']) == 2 for name in ('images_per_s', 'data_time_frac', 'mfu')
    )
    for rate, wait, share in zip(
        *(logged[f'train/{n}'] for n in ('images_per_s', 'data_time_frac', 'mfu')), strict=True
    ):
        assert 0 < rate <= 12 / (12 * 0.01)  # no faster than its loader
        assert 0 < wait < 1
        assert share == pytest.approx(rate * 2.0 / 1.0)
    if not torch.cuda.is_available():
        assert logged['train/peak_rss_mib'][-1] > 50


@pytest.mark.long
def test_without_operations_there_is_no_share_and_nonsense_is_an_error(tmp_path):
    logged = train(tmp_path, Throughput())
    assert 'train/images_per_s' in logged and 'train/mfu' not in logged
    with pytest.raises(ValueError, match='gflop_per_image=-1'):
        Throughput(gflop_per_image=-1)


def test_images_are_counted_in_any_batch():
    view = torch.zeros(5, 3, 8, 8)
    assert (
        images_of(dict(inputs=dict(view=view)))
        == images_of(dict(inputs=[view[0]] * 5, data_samples=[]))
        == 5
    )
    assert images_of(None) == 0


def test_the_peak_is_measured():
    assert all(
        matmul_peak(torch.device('cpu'), dtype) > 0 for dtype in (torch.float32, torch.bfloat16)
    )
