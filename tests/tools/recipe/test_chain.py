"""Recipe files: which are refused, which options a stage gets, and which checkpoint it will end with."""

import functools
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from recipe import chain
from recipe.chain import Stage
from small import ROOT

pytestmark = pytest.mark.any_stack


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty project with one config."""
    monkeypatch.chdir(tmp_path)
    Path('ours.py').write_text('a = 1')
    return tmp_path


def test_overrides_follow_the_seed_and_the_stages_options():
    stage = Stage('task', 'ours.py', options={'lr': 0.1})
    assert chain.stage_options(stage, 7, ['a=1']) == ['lr=0.1', 'randomness.seed=7', 'a=1']


def test_mmengine_reads_options_as_they_are_in_the_recipe():
    values = [3, 2e-5, True, None, 'poly', [1, 2.5], (0.9, 0.98), [(1, 2), (3, 4)]]
    given = {f'key_{i}': value for i, value in enumerate(values)}
    options = chain.stage_options(Stage('a', 'ours.py', options=given), None, [])
    assert chain.parse_options(options) == given


@pytest.mark.parametrize('config, options, name', [
    ('train_cfg = dict(max_epochs=8)', ['train_cfg.max_epochs=3'], 'work/a/epoch_3.pth'),
    ('train_cfg = dict(max_iters=9)\ndefault_hooks = dict(checkpoint=dict(by_epoch=False))', [],
     'work/a/iter_9.pth'),
    ('train_cfg = dict(max_iters=9)', [], '<last checkpoint in work/a>'),
])  # fmt: skip
def test_the_last_checkpoint_is_known_before_training(place, config, options, name):
    Path('a.py').write_text(config)
    assert chain.expected_checkpoint(Stage('a', 'a.py'), Path('work/a'), options) == name


OURS = dict(name='a', config='ours.py')


@pytest.mark.parametrize('stages, message', [
    ([], 'has no stages'),
    ([dict(OURS, weihgts={})], "unexpected keyword argument 'weihgts'"),
    ([OURS, dict(OURS, name='a/b')], "stage 'a/b' would share a folder with 'a'"),
    ([dict(OURS, name='prepare')], "'prepare' would share a folder with"),
    ([dict(OURS, config='none.py')], "config none.py of stage 'a' not found"),
    ([dict(OURS, long=True), dict(OURS, name='b', weights={'x': 'a'})],
     "weights from 'a'; expected an earlier stage: there is none"),
])  # fmt: skip
def test_wrong_stages_are_refused(place, stages, message):
    Path('recipe.json').write_text(json.dumps(dict(stages=stages)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        chain.read_recipe('recipe.json')


def test_the_papers_stages_take_weights_by_the_keys_and_lengths_of_their_configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = {stage.name: stage for stage in chain.read_recipe('configs/paper/recipe.py').stages}
    for stage in stages.values():
        cfg = Config.fromfile(stage.config)
        for key, name in stage.weights.items():
            in_config = Path(functools.reduce(getattr, key.split('.'), cfg))
            options = chain.stage_options(stages[name], None, [])
            written = Path(chain.expected_checkpoint(stages[name], Path(), options))
            assert in_config.name == written.name, (stage.name, key)
            assert in_config.parent.name == Path(stages[name].config).stem, (stage.name, key)


def test_everything_in_the_quickstart_follows_the_length_of_a_stage(monkeypatch):
    """`train_cfg.max_iters` alone shortens a stage: mmengine ends schedules with the run."""
    monkeypatch.chdir(ROOT)
    for stage in chain.read_recipe('configs/quickstart/recipe.py', long=True).stages:
        cfg = Config.fromfile(stage.config)
        options = {key: value for key, value in stage.options.items() if 'interval' not in key}
        assert not [key for key in options if 'scheduler' in key or 'hooks' in key], stage.name
        cfg.merge_from_dict(options)
        schedule = cfg.param_scheduler[-1]
        assert 'end' not in schedule and 'T_max' not in schedule, stage.name
        assert all('iters' not in hook for hook in cfg.get('custom_hooks', [])), stage.name
