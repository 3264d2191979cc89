"""The report of one run: curves of the logged values, and the environment from the log."""

import json
from pathlib import Path

import pytest
import report
from reports import run_report

LINES = [
    dict(lr=0.1, base_lr=0.1, loss=6.0, token_entropy=5.0, time=0.5, memory=9, step=50),
    {'mim/val_loss': 5.5, 'time': 0.2, 'step': 1},
    dict(lr=0.05, base_lr=0.1, loss=5.0, token_entropy=4.5, time=0.25, memory=9, step=100),
    {'mim/val_loss': 5.0, 'time': 0.2, 'step': 2},
]
LOG = """2026/11/24 18:04:11 - mmengine - INFO -
------------------------------------------------------------
System environment:
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

    TorchVision: 0.29
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
        "model = dict(type='SomethingElse')\n"
        'train_dataloader = dict(batch_size=8)\n'
        "name = '</pre><script>'\n"
    )
    return folder


def test_a_report_has_curves_config_and_environment_as_text(tmp_path):
    charts = {chart['title']: chart['lines'] for chart in run_report.charts(LINES, 32)}
    assert {title: line for lines in charts.values() for title, line in lines.items()} == {
        'learning rate': [(50, 0.1), (100, 0.05)],
        'loss': [(50, 6.0), (100, 5.0)],
        'token entropy, nats': [(50, 5.0), (100, 4.5)],
        'images per second': [(50, 64.0), (100, 128.0)],
        'validation: val_loss': [(50, 5.5), (100, 5.0)],
    }
    run_report.write(tmp_path / 'out/report.html', run(tmp_path / '<i>run'))
    html = (tmp_path / 'out/report.html').read_text()
    assert html.count('<svg') == len(charts) == 5
    assert '100 iterations are logged' in html and 'val_loss</td><td>5</td>' in html
    assert not any(tag in html for tag in ('<i>', '<b>', '<script'))
    assert 'seed: 1 &lt;b&gt;' in html and '&lt;/pre&gt;&lt;script&gt;' in html
    assert 'TorchVision: 0.29' in html and 'GCC' not in html and 'mmengine -' not in html
    assert run_report.count_processes(LOG) == 4


def test_probes_have_a_chart_per_measure_with_a_line_per_layer(tmp_path):
    measured = []
    for step in (100, 200):
        line = {'probe/knn_top1/layer_1': 5.0, 'probe/knn_top1/layer_2': 6.0, 'step': step}
        for layer in range(1, 9):
            line[f'probe/attention_distance/layer_{layer}/head_1'] = 2.0
            line[f'probe/attention_distance/layer_{layer}/head_2'] = 4.0
        measured.append(line | {'probe/seconds': 1.5})
    charts = {chart['title']: chart['lines'] for chart in run_report.probe_charts(measured)}
    counts = {title: len(lines) for title, lines in charts.items()}
    assert counts == dict(knn_top1=2, seconds=1, attention_distance=8)
    assert charts['attention_distance']['layer 8'] == [(100, 3.0), (200, 3.0)]
    run_report.write(tmp_path / 'report.html', run(tmp_path / 'run', [*LINES, *measured]))
    html = (tmp_path / 'report.html').read_text().split('<h2>Probes</h2>')[1]
    assert html.count('<svg') == 3 and 'layer 2</span>' in html


def test_a_run_without_pictures_says_why(tmp_path):
    stage = run(tmp_path / 'run')
    (stage / 'now/vis_data/config.py').write_text(
        "model = dict(type='DiscreteVAE')\n"
        'train_dataloader = dict(batch_size=8)\n'
        "default_scope = 'beit_mm'\n"
        "val_dataloader = dict(dataset=dict(type='mmpretrain.CustomDataset', data_root='gone'))\n"
    )
    run_report.write(stage / 'report.html', stage)
    assert 'No pictures: ' in (stage / 'report.html').read_text()


def test_a_folder_without_a_run_names_those_that_it_has(tmp_path):
    run(tmp_path / 'task/scratch')
    message = 'error: .* has no run with logged numbers: expected one of task/scratch in it'
    with pytest.raises(SystemExit, match=message):
        report.main([str(tmp_path)])
