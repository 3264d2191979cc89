"""The data set of a run: bad samples are errors or replaced, and subsets stay seeded."""

import random
from functools import partial
from pathlib import Path
from typing import ClassVar

import bad_files
import pytest
import torch
from data.test_check_samples import LOAD, folders
from mmengine.dataset import BaseDataset, Compose
from trials import toy

from beit_mm.data.image_files import BadSample
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.registry import DATASETS


@pytest.fixture
def mixed(tmp_path):
    """Return a function that builds a data set of 200 images, of which 17 and 120 are empty."""
    for i in range(200):
        content = b'' if i in (17, 120) else bad_files.jpeg(size=(8, 8))
        bad_files.write(tmp_path / f'cat/{i:03}.jpg', content)
    given = folders(tmp_path, pipeline=[LOAD, dict(type='PackInputs')])
    return partial(SeededDataset, given)


def read(dataset: SeededDataset, keys: list, workers: int) -> list[int]:
    options = dict(batch_size=10, num_workers=workers, collate_fn=list)
    loader = torch.utils.data.DataLoader(dataset, sampler=keys, **options)
    samples = (one['data_samples'] for batch in loader for one in batch)
    return [int(Path(sample.img_path).stem) for sample in samples]


def test_skip_replaces_by_seed_epoch_and_index_alone(mixed):
    keys, bad = [(epoch, i) for epoch in range(3) for i in range(200)], (17, 120)
    found = read(mixed(on_bad_sample='skip'), keys, 0)
    assert found == read(mixed(on_bad_sample='skip'), keys, 2)
    assert read(mixed(on_bad_sample='skip'), keys[::-1], 0)[::-1] == found
    assert all(number == i for number, (_, i) in zip(found, keys, strict=True) if i not in bad)
    replaced = {found[200 * epoch + i] for epoch in range(3) for i in bad}
    assert len(replaced) > 3 and not replaced & set(bad)
    assert read(mixed(on_bad_sample='skip', seed=1), keys, 0) != found


@pytest.mark.parametrize('workers', [0, 2])
def test_skip_logs_each_file_once_and_stops_beyond_the_share(mixed, workers, capfd):
    keys = [(epoch, i) for epoch in range(3) for i in range(200)]
    with pytest.raises(BadSample, match='017.jpg is empty'):  # the default
        read(mixed(), keys[:20], workers)
    read(mixed(on_bad_sample='skip', max_bad_share=0.01), keys, workers)
    log = ''.join(capfd.readouterr())
    for number in (17, 120):
        assert log.count('skipped: ') == 2 and log.count(f'{number:03}.jpg is empty') == 1
    message = '2 of 200 samples are bad, more than max_bad_share=0.009.*120.jpg is empty'
    with pytest.raises(ValueError, match=message):
        read(mixed(on_bad_sample='skip', max_bad_share=0.009), keys, workers)


def _of_a_rank(mixed, numbers: list[int]) -> None:
    torch.distributed.init_process_group('gloo')
    rank, dataset = torch.distributed.get_rank(), mixed(on_bad_sample='skip', max_bad_share=0.006)
    dataset[0, numbers[rank]]
    with pytest.raises(ValueError, match='2 of 200 samples are bad, more than max_bad_share=0.006'):
        dataset.share_bad()
    torch.distributed.destroy_process_group()


def test_bad_samples_of_all_ranks_count_together(mixed, tmp_path):
    options = dict(log=tmp_path / 'log', ranks=2, port=toy.free_port())
    ranks = [toy.start(_of_a_rank, mixed, [17, 120], rank=rank, **options) for rank in range(2)]
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0], (tmp_path / 'log').read_text()


def test_other_errors_are_not_skipped(tmp_path):
    steps = [LOAD, dict(type='CenterCrop', crop_size='wide')]
    with pytest.raises((TypeError, AssertionError)):
        SeededDataset(folders(tmp_path, 'cat/a.jpg', pipeline=steps), on_bad_sample='skip')[0]


# -- tools of mmpretrain and mmseg


class Listed(BaseDataset):
    """Sample i is the result of its pipeline."""

    METAINFO: ClassVar = dict(classes=('a', 'b'))

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=f'{i}.png', gt_label=i % 2) for i in range(10)]


def test_a_subset_and_another_pipeline_are_those_of_the_wrapped_data_set():
    DATASETS.register_module(module=Listed, force=True)
    steps = [lambda info: (info['img_path'], random.random())]
    whole = SeededDataset(dict(type='Listed', pipeline=[]), pipeline=steps)
    part = whole.get_subset([7, 3])
    assert isinstance(part, SeededDataset) and len(part) == 2 and len(whole) == 10
    assert [part[i][0] for i in range(2)] == ['7.png', '3.png']
    assert part[0][1] == whole[0][1] and part[0, 0] != part[1, 0]  # still seeded
    whole.pipeline = Compose([lambda info: info['img_path']])
    assert whole[3] == '3.png' and whole.pipeline.transforms
    assert whole.METAINFO == whole.metainfo == dict(classes=('a', 'b'))
    assert whole.get_data_info(3)['img_path'] == '3.png'
    with pytest.raises(AttributeError):
        _ = whole.nothing
