"""What makes a chain, what a stage is given, and the checkpoint that it will end with."""

import argparse
import functools
import json
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction
from recipe import chain as recipe
from recipe.chain import Stage

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[3]
CONFIG = 'train_dataloader = dict(sampler=dict(type={!r}), dataset=dict(type={!r}))'
FIRST, THIRD = Stage('first', 'ours.py'), Stage('task/third', 'other.py', options={'lr': 0.1})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty project with two configs."""
    monkeypatch.chdir(tmp_path)
    Path('ours.py').write_text(CONFIG.format('beit_mm.KeyedSampler', 'beit_mm.SeededDataset'))
    Path('other.py').write_text(CONFIG.format('DefaultSampler', 'CustomDataset'))
    return tmp_path


# -- what a stage is given -------------------------------------------------------------------------------------------


def test_a_seed_is_the_run_s_and_overrides_come_last(place):
    assert recipe.settings(FIRST, 7, ['a=1']) == ['randomness.seed=7', 'a=1']
    assert recipe.settings(THIRD, 7, []) == ['lr=0.1', 'randomness.seed=7']
    assert recipe.settings(THIRD, None, []) == ['lr=0.1']


@pytest.mark.parametrize(
    'value', [3, 2e-5, True, None, 'poly', [1, 2.5], (0.9, 0.98), [(1, 2), (3, 4)]]
)
def test_options_arrive_as_they_were_written(value, place):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    written = recipe.settings(Stage('a', 'ours.py', options={'key': value}), None, [])
    assert parser.parse_args(['--cfg-options', *written]).cfg_options == {'key': value}


@pytest.mark.parametrize(
    'config, options, name',
    [
        ("train_cfg = dict(max_epochs=8)", [], 'work/a/epoch_8.pth'),
        ("train_cfg = dict(max_epochs=8)", ['train_cfg.max_epochs=3'], 'work/a/epoch_3.pth'),
        ("train_cfg = dict(max_iters=9)\ndefault_hooks = dict(checkpoint=dict(by_epoch=False))", [], 'work/a/iter_9.pth'),
        ("train_cfg = dict(max_iters=9)", [], '<last checkpoint in work/a>'),
    ],
)  # fmt: skip
def test_the_last_checkpoint_is_known_before_it_is_written(place, config, options, name):
    Path('a.py').write_text(config)
    assert recipe.last_checkpoint(Stage('a', 'a.py'), Path('work/a'), options) == name


def test_more_processes_make_another_result(place):
    one, two = (recipe.made_from(FIRST, Path('work'), [], [], gpus) for gpus in (1, 2))
    assert (
        recipe.changes(two, dict(made_from=one))
        == recipe.changes(one, dict(made_from=two))
        == ['gpus']
    )
    assert recipe.changes(two, dict(made_from=two)) == []


# -- what makes no chain ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'stages, message',
    [
        ([], 'has no stages'),
        (
            [dict(name='a', config='ours.py', weihgts={})],
            r"unknown key 'weihgts': did you mean 'weights'",
        ),
        ([dict(config='ours.py')], 'a stage has no name'),
        (
            [dict(name='a', config='ours.py'), dict(name='a', config='ours.py')],
            "two stages are named 'a'",
        ),
        (
            [dict(name='a', config='ours.py', weights={'x': 'b'})],
            "'b', which is no earlier stage; earlier are: none",
        ),
        ([dict(name='a', config='none.py')], "stage 'a' has no config none.py"),
        (
            [
                dict(name='a', config='ours.py', long=True),
                dict(name='b', config='ours.py', weights={'x': 'a'}),
            ],
            'no earlier stage',  # without --long
        ),
    ],
)
def test_what_makes_no_chain_is_refused(place, stages, message):
    Path('recipe.json').write_text(json.dumps(dict(stages=stages)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.read_recipe('recipe.json')


def test_a_missing_recipe_is_named():
    with pytest.raises(FileNotFoundError, match='no recipe at nowhere.py'):
        recipe.read_recipe('nowhere.py')


def test_long_stages_run_when_asked_for(place):
    Path('recipe.py').write_text(
        "stages = [dict(name='a', config='ours.py'), dict(name='b', config='ours.py', long=True)]"
    )
    assert [stage.name for stage in recipe.read_recipe('recipe.py').stages] == ['a']
    assert [stage.name for stage in recipe.read_recipe('recipe.py', long=True).stages] == ['a', 'b']


# -- the recipes of this project -----------------------------------------------------------------------------------


def test_the_papers_stages_read_what_their_configs_expect(monkeypatch):
    """The chain names the keys that the configs have, and checkpoints of the same length as stand there."""
    monkeypatch.chdir(ROOT)
    stages = {stage.name: stage for stage in recipe.read_recipe('configs/paper/recipe.py').stages}
    for stage in stages.values():
        cfg = Config.fromfile(stage.config)
        for key, source in stage.weights.items():
            expected = functools.reduce(getattr, key.split('.'), cfg)
            written = recipe.last_checkpoint(
                stages[source], Path(), recipe.settings(stages[source], None, [])
            )
            assert Path(expected).name == Path(written).name, (stage.name, key)
            assert Path(expected).parent.name == Path(stages[source].config).stem, (stage.name, key)


# -- the quickstart's ------------------------------------------------------------------------------------------------


def test_schedules_of_the_quickstart_end_where_its_stages_end(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = recipe.read_recipe('configs/quickstart/recipe.py', long=True).stages
    for stage in stages:
        cfg = Config.fromfile(stage.config)
        cfg.merge_from_dict({**stage.options, **{key: 'x.pth' for key in stage.weights}})
        last = cfg.train_cfg.max_iters
        assert cfg.param_scheduler[-1]['end'] == last and last % cfg.train_cfg.val_interval == 0, (
            stage.name
        )
        assert cfg.default_hooks.checkpoint.interval == last, stage.name
        for hook in cfg.get('custom_hooks', []):
            assert hook.get('iters', 0) <= last, stage.name
    assert {stage.name.partition('/')[0] for stage in stages if stage.long} == {
        'classification-long',
        'segmentation-long',
    }
