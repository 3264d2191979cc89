"""A resumed run begins at its place: it neither reads nor draws what was trained on."""

import multiprocessing

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.launch import build_runner
from beit_mm.registry import DATASETS, HOOKS, MODELS

pytestmark = pytest.mark.usefixtures('unformatted')
SIZE, BATCH = 1_000_000, 4
READ = multiprocessing.Value('i')


@DATASETS.register_module()
class Million(Dataset):
    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict:
        with READ.get_lock():
            READ.value += 1
        return dict(inputs=torch.tensor([float(index)]))


@MODELS.register_module()
class Slope(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.linear(torch.stack(inputs) / SIZE).square().mean())


class Enough(Exception):
    pass


@HOOKS.register_module()
class First(Hook):
    """Notes the first batch of a run and its number in the epoch; ends the run behind it."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.index = batch_idx
        self.batch = torch.stack(data_batch['inputs']).flatten().int().tolist()

    def after_train_iter(self, runner, **_):
        runner.save_checkpoint(runner.work_dir, 'first.pth', by_epoch=False)
        raise Enough


def run(
    folder, loop: str, workers: int, sampler: str = 'KeyedSampler', **how
) -> tuple[First, list[str]]:
    cfg = Config(
        dict(
            default_scope='beit_mm',
            work_dir=str(folder),
            experiment_name=f'{folder.name}_{len(how)}',
            model=dict(type='Slope'),
            train_dataloader=dict(
                batch_size=BATCH,
                num_workers=workers,
                persistent_workers=workers > 0,
                sampler=dict(type=sampler),
                dataset=dict(type='SeededDataset', dataset=dict(type='Million')),
            ),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=9)
            if loop == 'epoch'
            else dict(type='IterBasedTrainLoop', max_iters=SIZE),
            custom_hooks=[dict(type='First')],
            randomness=dict(seed=3),
            **how,
        )
    )
    if loop == 'iter':
        cfg.train_dataloader.sampler.infinite = True
    runner = build_runner(cfg)
    READ.value = 0
    with pytest.raises(Enough):
        runner.train()
    return next(hook for hook in runner.hooks if isinstance(hook, First))


@pytest.mark.parametrize(
    ('loop', 'workers'),
    [
        ('iter', 0),
        ('epoch', 2),
        *(pytest.param(*one, marks=pytest.mark.long) for one in [('epoch', 0), ('iter', 2)]),
    ],
)
def test_of_a_million_entries_only_the_next_are_read(loop, workers, tmp_path):
    run(tmp_path / 'new', loop, workers)
    checkpoint, done, epoch = (
        read_file(tmp_path / 'new/first.pth'),
        100_000,
        2,
    )  # batches of the third epoch
    checkpoint['meta'].update(iter=epoch * SIZE // BATCH + done)
    if loop == 'epoch':
        checkpoint['meta'].update(epoch=epoch, samples_of_epoch=done * BATCH)
    torch.save(checkpoint, tmp_path / 'late.pth')

    first = run(tmp_path / 'late', loop, workers, load_from=str(tmp_path / 'late.pth'), resume=True)
    order = np.random.default_rng((3, epoch)).permutation(SIZE)
    assert first.batch == order[done * BATCH :][:BATCH].tolist()
    assert first.index == (done if loop == 'epoch' else checkpoint['meta']['iter'])
    assert BATCH <= READ.value <= 1000  # what workers prefetch, whenever that is counted


def test_another_batch_goes_on_at_the_same_sample_of_the_epoch(tmp_path, monkeypatch):
    """Rounded down, so that none is left out."""
    monkeypatch.setitem(globals(), 'SIZE', 1000)
    run(tmp_path / 'new', 'epoch', 0)
    checkpoint = read_file(tmp_path / 'new/first.pth')
    assert (
        checkpoint['meta']['samples_of_epoch'] == BATCH and checkpoint['meta']['sampler_seed'] == 3
    )
    checkpoint['meta']['samples_of_epoch'] = 2 * BATCH + 1
    torch.save(checkpoint, tmp_path / 'other.pth')
    assert (
        run(
            tmp_path / 'other', 'epoch', 0, load_from=str(tmp_path / 'other.pth'), resume=True
        ).index
        == 2
    )
