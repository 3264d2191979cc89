"""A resumed run starts at its position: it does not read the samples it was trained on."""

import multiprocessing

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import Dataset
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.launch import build_runner
from beit_mm.registry import DATASETS, HOOKS

SIZE, BATCH = 1_000_000, 4
READ = multiprocessing.Value('i')  # samples, by all workers


@DATASETS.register_module()
class Million(Dataset):
    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict:
        with READ.get_lock():
            READ.value += 1
        return dict(inputs=torch.tensor([float(index)]))


class Stop(Exception):
    pass


@HOOKS.register_module()
class FirstBatch(Hook):
    """Record the first batch of a run and its number, save, and stop the run."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.number = batch_idx
        self.indices = data_batch['inputs'].flatten().int().tolist()

    def after_train_iter(self, runner, **_):
        runner.save_checkpoint(runner.work_dir, 'first.pth', by_epoch=False)
        raise Stop


def run(folder, loop: str, workers: int, **settings) -> FirstBatch:
    cfg = toy.config(folder, epochs=loop == 'epoch', iters=9 * SIZE, workers=workers, resume=False)
    cfg.train_dataloader.update(batch_size=BATCH, persistent_workers=workers > 0)
    cfg.train_dataloader.dataset = dict(type='SeededDataset', dataset=dict(type='Million'))
    del cfg.train_dataloader.sampler.seed
    cfg.update(custom_hooks=[dict(type='FirstBatch')], randomness=dict(seed=3))
    cfg.update(val_dataloader=None, val_evaluator=None, val_cfg=None)
    cfg.update(settings, experiment_name=f'{folder.name}_{len(settings)}')
    cfg.model.width = 1
    runner = build_runner(cfg)
    READ.value = 0
    with pytest.raises(Stop):
        runner.train()
    return next(hook for hook in runner.hooks if isinstance(hook, FirstBatch))


@pytest.mark.parametrize(
    ('loop', 'workers'),
    [
        ('iter', 0),
        ('epoch', 2),
        *(pytest.param(*one, marks=pytest.mark.long) for one in [('epoch', 0), ('iter', 2)]),
    ],
)
def test_of_a_million_samples_only_the_next_ones_are_read(loop, workers, tmp_path):
    run(tmp_path / 'new', loop, workers)
    checkpoint, epoch, done = read_file(tmp_path / 'new/first.pth'), 2, 100_000  # batches
    checkpoint['meta'].update(iter=epoch * SIZE // BATCH + done)
    if loop == 'epoch':
        checkpoint['meta'].update(epoch=epoch, samples_of_epoch=done * BATCH)
    late = tmp_path / 'late.pth'
    torch.save(checkpoint, late)

    first = run(tmp_path / 'late', loop, workers, load_from=str(late), resume=True)
    order = np.random.default_rng((3, epoch)).permutation(SIZE)
    assert first.indices == order[done * BATCH :][:BATCH].tolist()
    assert first.number == (done if loop == 'epoch' else checkpoint['meta']['iter'])
    assert BATCH <= READ.value <= 1000  # with what workers prefetch


def test_with_another_batch_size_an_epoch_continues_at_the_same_sample(tmp_path, monkeypatch):
    """The position is rounded down, so no sample is skipped."""
    monkeypatch.setitem(globals(), 'SIZE', 1000)
    run(tmp_path / 'new', 'epoch', 0)
    checkpoint = read_file(tmp_path / 'new/first.pth')
    assert checkpoint['meta']['samples_of_epoch'] == BATCH
    assert checkpoint['meta']['sampler_seed'] == 3
    checkpoint['meta']['samples_of_epoch'] = 2 * BATCH + 1
    other = tmp_path / 'other.pth'
    torch.save(checkpoint, other)
    assert run(tmp_path / 'other', 'epoch', 0, load_from=str(other), resume=True).number == 2
