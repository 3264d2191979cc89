"""The report of one run: curves of what was logged, and of the environment what the log says."""

import json
import re
from pathlib import Path

import pytest
from reports import run_report

LINES = [
    dict(
        lr=0.1, base_lr=0.1, loss=6.0, token_entropy=5.0, time=0.5, data_time=0.1, memory=9, step=50
    ),
    {'mim/val_loss': 5.5, 'time': 0.2, 'step': 1},
    dict(
        lr=0.05,
        base_lr=0.1,
        loss=5.0,
        token_entropy=4.5,
        time=0.25,
        data_time=0.1,
        memory=9,
        step=100,
    ),
    {'mim/val_loss': 5.0, 'time': 0.2, 'step': 2},
]
LOG = """2026/11/24 18:04:11 - mmengine - INFO -
------------------------------------------------------------
System environment:
    Python: 3.11
    PyTorch: 2.14
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

    TorchVision: 0.29

Runtime environment:
    seed: 1 <b>
    GPU number: 4
------------------------------------------------------------

2026/11/24 18:04:11 - mmengine - INFO - Config:
"""


def run(folder: Path, lines: list[dict] = LINES) -> Path:
    (folder / 'now/vis_data').mkdir(parents=True)
    (folder / 'now/vis_data/scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (folder / 'now/now.log').write_text(LOG)
    (folder / 'now/vis_data/config.py').write_text(
        "model = dict(type='SomethingElse')\ntrain_dataloader = dict(batch_size=8)\nname = '</pre><script>'\n"
    )
    return folder


def test_every_number_that_was_logged_has_its_curve():
    found = dict(run_report.curves(LINES, 32))
    assert found == {
        'learning rate': [(50, 0.1), (100, 0.05)],
        'loss': [(50, 6.0), (100, 5.0)],
        'token entropy, nats': [(50, 5.0), (100, 4.5)],
        'images a second': [(50, 64.0), (100, 128.0)],
        'validation: val_loss': [(50, 5.5), (100, 5.0)],
    }


def test_the_environment_is_the_logs_own_without_the_compilers():
    text = run_report.environment(LOG)
    assert (
        'TorchVision: 0.29' in text
        and 'seed: 1 <b>' in text
        and 'GCC' not in text
        and 'mmengine' not in text
    )
    assert run_report.processes(LOG) == 4
    assert (run_report.environment('nothing'), run_report.processes('nothing')) == ('', 1)


def test_a_report_has_curves_config_and_environment_as_text(tmp_path):
    stage = run(tmp_path / '<i>run')
    run_report.write(tmp_path / 'out/report.html', stage)
    html = (tmp_path / 'out/report.html').read_text()
    assert (
        html.count('<svg') == 5
        and 'images a second' in html
        and '100 iterations are logged' in html
    )
    assert (
        '<i>' not in html
        and '<b>' not in html
        and '<script' not in html
        and 'seed: 1 &lt;b&gt;' in html
    )
    assert '&lt;/pre&gt;&lt;script&gt;' in html and 'val_loss</td><td>5</td>' in html


def test_probes_have_a_chart_per_measure_with_a_line_per_layer(tmp_path):
    measured = [
        {
            'probe/knn_top1/layer_1': 5.0,
            'probe/knn_top1/layer_2': 6.0,
            'probe/seconds': 1.5,
            'step': 100 * i,
        }
        | {
            f'probe/attention_distance/layer_{layer}/head_{head}': 3.0
            for layer in range(1, 9)
            for head in (1, 2)
        }
        for i in (1, 2)
    ]
    stage = run(tmp_path / 'run', [*LINES, *measured])
    run_report.write(tmp_path / 'report.html', stage)
    html = (tmp_path / 'report.html').read_text().split('<h2>Probes</h2>')[1]
    charts = {chart.split('</h3>')[0]: chart for chart in html.split('<figure><h3>')[1:]}
    assert list(charts) == ['knn_top1', 'seconds', 'attention_distance']
    assert {name: chart.count('stroke-width="2"') for name, chart in charts.items()} == dict(
        knn_top1=2, seconds=1, attention_distance=8
    )
    assert (
        'layer 2</span>' in charts['knn_top1']
        and len(set(re.findall(r'stroke="(hsl.*?)"', charts['attention_distance']))) == 8
    )


def test_a_run_without_pictures_says_why(tmp_path):
    stage = run(tmp_path / 'run')
    (stage / 'now/vis_data/config.py').write_text(
        "model = dict(type='DiscreteVAE')\ntrain_dataloader = dict(batch_size=8)\ndefault_scope = 'beit_mm'\n"
        "val_dataloader = dict(dataset=dict(type='mmpretrain.CustomDataset', data_root='gone'))\n"
    )
    run_report.write(stage / 'report.html', stage)
    assert 'There are none: ' in (stage / 'report.html').read_text()


def test_a_folder_without_a_run_says_where_there_are_some(tmp_path):
    def refused(message: str) -> None:
        with pytest.raises(FileNotFoundError, match=f'has no run with logged numbers: {message}'):
            run_report.write(tmp_path / 'report.html', tmp_path)

    refused('expected a folder that tools/train.py has written')
    (tmp_path / 'now').mkdir()
    (tmp_path / 'now/now.log').write_text(LOG)
    refused('its config had a visualizer without dict.type="LocalVisBackend"')
    run(tmp_path / 'task/scratch')
    refused('expected one of task/scratch in it')


def test_a_stage_of_a_recipe_knows_where_the_others_lie(tmp_path):
    stage = run(tmp_path / 'work/task/scratch')
    assert run_report.stage_of(stage) == (tmp_path / 'work/task', 'scratch')
    (stage / 'a.pth').touch()
    (stage / 'last_checkpoint').write_text('a.pth')
    (stage / 'stage.json').write_text(
        json.dumps(dict(name='task/scratch', weights={}, logs=['now']))
    )
    assert run_report.stage_of(stage) == (tmp_path / 'work', 'task/scratch')
