"""tools/convert.py: what it writes is what the other project reads, to the last bit back again; refusals are one line."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from beit_mm.checkpoint import load, origins
from beit_mm.checkpoint.export import TARGETS, export

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location('convert', ROOT / 'tools/convert.py')
convert = importlib.util.module_from_spec(spec)
spec.loader.exec_module(convert)
KINDS = [
    'mim',
    'vanilla_mim',
    'classifier',
    'vanilla_classifier',
    'cls_token_classifier',
    'segmentor',
    'tokenizer',
]


@pytest.fixture
def write(make_state, tmp_path):
    """The path of a checkpoint of a kind, as this project writes it."""

    def write(kind: str, **meta) -> str:
        torch.save(dict(state_dict=make_state(kind), meta=meta), tmp_path / f'{kind}.pth')
        return str(tmp_path / f'{kind}.pth')

    return write


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def has_model(target: str, kind: str) -> bool:
    return kind.rpartition('_')[2] in TARGETS[target] and not (
        target == 'mmseg' and 'vanilla' in kind
    )


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('kind', KINDS)
def test_there_verified_and_back_bit_by_bit(write, tmp_path, capsys, kind, target):
    source, there = write(kind), str(tmp_path / ('out' if target == 'hf' else 'out.pth'))
    if not has_model(target, kind):
        with pytest.raises(
            SystemExit, match=rf'error: {target} has no model for a {kind.rpartition("_")[2]}'
        ):
            convert.main([source, there, '--to', target])
        return
    convert.main([source, there, '--to', target, '--verify'])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith('max_abs_diff=') and float(last.removeprefix('max_abs_diff=')) < 1e-5
    convert.main([there, str(tmp_path / 'back.pth'), '--to', 'beit_mm', '--verify'])
    assert float(capsys.readouterr().out.splitlines()[-1].removeprefix('max_abs_diff=')) < 1e-5
    expected = load(source)[0]
    if (kind, target) == ('tokenizer', 'mmpretrain'):
        expected = {k: v for k, v in expected.items() if k.startswith('encoder.')}
    assert same(load(str(tmp_path / 'back.pth'))[0], expected)


@pytest.mark.parametrize('target', ['hf', 'timm', 'unilm', 'mmpretrain', 'mmseg'])
def test_of_a_pre_training_the_backbone_alone_goes_everywhere(write, tmp_path, capsys, target):
    there = str(tmp_path / 'out')
    convert.main([write('mim'), there, '--to', target, '--backbone', '--verify'])
    assert float(capsys.readouterr().out.splitlines()[-1].removeprefix('max_abs_diff=')) < 1e-5


@pytest.mark.parametrize('target', ['beit_mm', 'unilm', 'mmpretrain'])
def test_verify_runs_the_model_of_the_source_not_what_was_read_of_it(
    write, tmp_path, monkeypatch, target
):
    """Here reading exchanges two norms; the library of the source knows better."""
    convert.main([write('classifier'), str(tmp_path / 'hf'), '--to', 'hf'])
    norms = {'layernorm_before': 'layernorm_after', 'layernorm_after': 'layernorm_before'}
    names = [
        (re.sub('layernorm_(before|after)', lambda m: norms[m[0]], old), new)
        for old, new in origins.NAMES['hf']
    ]
    monkeypatch.setitem(origins.NAMES, 'hf', names)
    with pytest.raises(
        SystemExit,
        match=r'error: the outputs of .*hf and .*out\.pth differ by .*, more than 0\.0001 of the',
    ):
        convert.main([str(tmp_path / 'hf'), str(tmp_path / 'out.pth'), '--to', target, '--verify'])


def test_verify_finds_what_was_written_wrong(write, tmp_path, monkeypatch):
    def spoiled(state, *args):
        return export(
            {k: v * 1.01 if k.endswith('fc1.weight') else v for k, v in state.items()}, *args
        )

    monkeypatch.setattr(convert, 'export', spoiled)
    with pytest.raises(
        SystemExit, match=r'error: the outputs of .* differ by .*: do not use .*out\.pth'
    ):
        convert.main([write('classifier'), str(tmp_path / 'out.pth'), '--to', 'unilm', '--verify'])


def test_a_backbone_of_four_channels_goes_to_every_library(tmp_path, make_state, capsys):
    state = {k: v for k, v in make_state('classifier').items() if k.startswith('backbone.')}
    state['backbone.patch_embed.proj.weight'] = torch.randn(64, 4, 16, 16)
    torch.save(state, tmp_path / 'a.pth')
    for target in ('hf', 'timm', 'mmpretrain', 'mmseg'):
        convert.main([str(tmp_path / 'a.pth'), str(tmp_path / target), '--to', target, '--verify'])
        assert f'verified: ours on {tmp_path}/a.pth, {target} on' in capsys.readouterr().out


def test_the_backbone_within_an_adapter_is_taken_alone(tmp_path, make_state, capsys):
    state = {k: v for k, v in make_state('segmentor').items() if k.startswith('backbone.')}
    torch.save(state | {'backbone.spm.stem.0.weight': torch.zeros(1)}, tmp_path / 'adapter.pth')
    convert.main(
        [
            str(tmp_path / 'adapter.pth'),
            str(tmp_path / 'out.pth'),
            '--to',
            'beit_mm',
            '--backbone',
            '--verify',
        ]
    )
    assert 'skipped: spm.* (BEiT has no such part)' in capsys.readouterr().out
    assert same(load(str(tmp_path / 'out.pth'))[0], state)
    with pytest.raises(
        SystemExit,
        match=r'BEiT has no spm, which an adapter may have added.*pass --backbone',
    ):
        convert.main([str(tmp_path / 'adapter.pth'), str(tmp_path / 'out.pth'), '--to', 'hf'])


@pytest.mark.parametrize('target', ['beit_mm', 'hf', 'timm', 'unilm', 'mmpretrain'])
@pytest.mark.parametrize('form', ['safetensors', 'pth'])
def test_both_formats_hold_the_same(write, tmp_path, target, form):
    there = str(tmp_path / 'out')
    convert.main([write('classifier'), there, '--to', target, '--format', form])
    files = list(Path(there).iterdir()) if target == 'hf' else [Path(there)]
    weights = next(file for file in files if file.suffix != '.json')
    assert (weights.read_bytes()[8:9] == b'{') is (form == 'safetensors')
    assert same(load(there)[0], load(str(tmp_path / 'classifier.pth'))[0])


def test_hugging_faces_folder_states_size_and_normalisation(write, tmp_path):
    transformers = pytest.importorskip('transformers')
    normalization = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    convert.main(
        [write('classifier', normalization=normalization), str(tmp_path / 'out'), '--to', 'hf']
    )
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'out')
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])
    assert (processor.size['height'], processor.size['width']) == (64, 64)
    config = json.loads((tmp_path / 'out/config.json').read_text())
    assert (config['num_hidden_layers'], config['image_size'], len(config['id2label'])) == (
        4,
        64,
        7,
    )
    convert.main([str(tmp_path / 'out'), str(tmp_path / 'back.pth'), '--to', 'beit_mm'])
    back = torch.load(tmp_path / 'back.pth')['meta']['normalization']
    assert back['mean'] == pytest.approx(normalization['mean']) and back['std'] == pytest.approx(
        normalization['std']
    )


def test_taps_of_a_hugging_face_segmentor_are_told(write, tmp_path, capsys):
    convert.main([write('segmentor'), str(tmp_path / 'out'), '--to', 'hf'])
    capsys.readouterr()
    convert.main([str(tmp_path / 'out'), str(tmp_path / 'back.pth'), '--to', 'beit_mm', '--verify'])
    out = capsys.readouterr().out
    assert 'hf reads blocks [0, 1, 2, 3]: set backbone.out_indices to this' in out
    assert 'skipped: backbone.blocks.4.norm1.weight (of a layer that adds nothing)' in out


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('gone.pth', ['out.pth', '--to', 'hf'], r'error: no checkpoint at .*gone\.pth. Expected'),
        (
            'mim.pth',
            ['out.pth', '--to', 'hf'],
            r'error: .*out\.pth is a file: Hugging Face needs the name of a folder',
        ),
        ('mim.pth', ['.', '--to', 'unilm'], r'error: .* is a folder: expected the name of a file'),
        (
            'decoder.pth',
            ['out.pth', '--to', 'mmpretrain'],
            r'error: backbone\.patch_embed.* is missing: expected a complete backbone, or a tokenizer',
        ),
        (
            'mim.pth',
            ['out.pth', '--to', 'timm'],
            r'error: timm has no model for a mim.*pass --backbone',
        ),
    ],
)
def test_what_cannot_be_converted_is_said(write, tmp_path, name, arguments, message):
    torch.save({'decoder.blocks.input.w': torch.zeros(1, 1, 1, 1)}, tmp_path / 'decoder.pth')
    write('mim')
    with pytest.raises(SystemExit, match=message):
        convert.main([str(tmp_path / name), str(tmp_path / arguments[0]), *arguments[1:]])


def test_a_refused_file_is_one_line_on_stderr_and_exit_code_1(tmp_path):
    evil = type(
        'Evil', (), {'__reduce__': lambda self: (os.system, (f'touch {tmp_path / "ran"}',))}
    )()
    torch.save(dict(model=evil), tmp_path / 'evil.pth')
    command = [sys.executable, str(ROOT / 'tools/convert.py'), 'evil.pth', 'out', '--to', 'hf']
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = os.environ | dict(PYTHONPATH=path, PYTHONWARNINGS='ignore')
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1 and not done.stdout and not (tmp_path / 'ran').exists()
    assert re.fullmatch(
        r'error: evil\.pth was not loaded, because .*posix\.system.*\n', done.stderr
    ), done.stderr
