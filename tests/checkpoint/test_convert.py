"""tools/convert.py writes what other projects read, and gets the same bits back."""

import json
import re
from pathlib import Path

import convert as tool
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from small import same_tensors

from beit_mm.checkpoint import load, load_tokenizer, origins, read_checkpoint
from beit_mm.checkpoint.export import TARGETS, export_checkpoint
from beit_mm.models import VQKD, DiscreteVAE

pytestmark = pytest.mark.any_stack

ENCODER = dict(
    arch=dict(embed_dims=64, num_layers=4, num_heads=1, feedforward_channels=128), img_size=64
)

CLASSIFIERS = 'classifier', 'vanilla_classifier', 'cls_token_classifier'
# Two projects have the same keys: (target, kind of model) → the one that it is taken for.
SAME_KEYS = {('timm', 'backbone'): 'beit_mm', ('mmseg', 'backbone'): 'mmpretrain'}


@pytest.fixture
def write(make_state, tmp_path):
    """Return a function that writes a checkpoint of a kind for this project and returns its path."""

    def write(kind: str, **meta) -> str:
        torch.save(dict(state_dict=make_state(kind), meta=meta), tmp_path / f'{kind}.pth')
        return str(tmp_path / f'{kind}.pth')

    return write


def convert(source: object, target: object, to: str, *options: str) -> None:
    tool.main([str(source), str(target), '--to', to, *options])


def largest_difference(out: str) -> float:
    return float(re.fullmatch(r'max_abs_diff=(.*)', out.splitlines()[-1])[1])


KINDS = ['mim', 'v2_mim', 'vanilla_mim', *CLASSIFIERS, 'segmentor', 'tokenizer', 'vqkd']


@pytest.mark.parametrize('to', TARGETS)
@pytest.mark.parametrize('kind', KINDS)
def test_conversion_is_verified_and_comes_back_bit_by_bit(write, tmp_path, capsys, kind, to):
    source, there = write(kind), tmp_path / ('out' if to == 'hf' else 'out.pth')
    task = kind.rpartition('_')[2]
    if task not in TARGETS[to]:
        with pytest.raises(SystemExit, match=rf'error: {to} has no model for a {task}'):
            convert(source, there, to)
        return
    convert(source, there, to, '--verify')
    assert largest_difference(capsys.readouterr().out) < 1e-5
    convert(there, tmp_path / 'back.pth', 'beit_mm', '--verify')
    assert largest_difference(capsys.readouterr().out) < 1e-5
    expected = load(source)[0]
    if (kind, to) == ('v2_mim', 'hf'):
        expected = {k: v for k, v in expected.items() if 'cls_pt_layers' not in k}
    encoder_only = kind in ('tokenizer', 'vqkd') and to == 'mmpretrain'
    if encoder_only:
        expected = {k: v for k, v in expected.items() if not k.startswith('decoder')}
    assert same_tensors(load(str(tmp_path / 'back.pth'))[0], expected)
    is_dalle = encoder_only and kind == 'tokenizer'
    expected_origin = 'dall-e' if is_dalle else 'beit_mm' if kind == 'tokenizer' else to
    assert load(str(there))[1] == expected_origin


@pytest.mark.parametrize('to', ['hf', 'timm', 'unilm', 'mmpretrain', 'mmseg'])
def test_the_backbone_of_a_pre_training_goes_everywhere(write, tmp_path, capsys, to):
    """In the format that is not the default."""
    options = '--backbone', '--verify', '--format', 'pth' if to == 'hf' else 'safetensors'
    convert(write('v2_mim'), tmp_path / 'out', to, *options)
    assert largest_difference(capsys.readouterr().out) < 1e-5
    with (tmp_path / ('out/pytorch_model.bin' if to == 'hf' else 'out')).open('rb') as file:
        assert (file.read(9)[8:] == b'{') is (to != 'hf')
    assert load(str(tmp_path / 'out'))[1] == SAME_KEYS.get((to, 'backbone'), to)


@pytest.mark.parametrize('to', ['beit_mm', 'unilm', 'mmpretrain'])
def test_verify_runs_the_model_of_the_source_not_our_reading_of_it(
    write, tmp_path, monkeypatch, to
):
    """Here reading exchanges two norms, which the library of the source does not."""
    convert(write('classifier'), tmp_path / 'hf', 'hf')
    norms = {'layernorm_before': 'layernorm_after', 'layernorm_after': 'layernorm_before'}
    names = [
        (re.sub('layernorm_(before|after)', lambda m: norms[m[0]], old), new)
        for old, new in origins.NAMES['hf']
    ]
    monkeypatch.setitem(origins.NAMES, 'hf', names)
    message = r'error: the outputs of .*hf and .*out\.pth differ by .*, more than 0\.0001 of the'
    with pytest.raises(SystemExit, match=message):
        convert(tmp_path / 'hf', tmp_path / 'out.pth', to, '--verify')


def test_verify_finds_wrong_output(write, tmp_path, monkeypatch):
    def spoil(state, *args):
        state = {k: v * 1.01 if k.endswith('fc1.weight') else v for k, v in state.items()}
        return export_checkpoint(state, *args)

    monkeypatch.setattr(tool, 'export_checkpoint', spoil)
    message = r'error: the outputs of .* differ by .*: do not use .*out\.pth'
    with pytest.raises(SystemExit, match=message):
        convert(write('classifier'), tmp_path / 'out.pth', 'unilm', '--verify')


def test_a_backbone_of_four_channels_goes_to_every_library(tmp_path, make_state, capsys):
    state = {k: v for k, v in make_state('classifier').items() if k.startswith('backbone.')}
    state['backbone.patch_embed.proj.weight'] = torch.randn(64, 4, 16, 16)
    torch.save(state, tmp_path / 'a.pth')
    for to in ('hf', 'timm', 'mmpretrain', 'mmseg'):
        convert(tmp_path / 'a.pth', tmp_path / to, to, '--verify')
        assert f'verified: ours on {tmp_path}/a.pth, {to} on' in capsys.readouterr().out


def test_the_backbone_in_an_adapter_is_extracted_alone(tmp_path, make_state, capsys):
    state = {k: v for k, v in make_state('segmentor').items() if k.startswith('backbone.')}
    source = tmp_path / 'adapter.pth'
    torch.save(state | {'backbone.spm.stem.0.weight': torch.zeros(1)}, source)
    convert(source, tmp_path / 'out.pth', 'beit_mm', '--backbone', '--verify')
    assert 'skipped: spm.* (BEiT has no such part)' in capsys.readouterr().out
    assert same_tensors(load(str(tmp_path / 'out.pth'))[0], state)
    message = 'BEiT has no spm, which an adapter may have added.*pass --backbone'
    with pytest.raises(SystemExit, match=message):
        convert(source, tmp_path / 'out.pth', 'hf')


def test_hugging_faces_folder_states_size_and_normalization(write, tmp_path):
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    convert(write('classifier', normalization=dict(mean=mean, std=std)), tmp_path / 'out', 'hf')
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'out')
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])
    assert (processor.size['height'], processor.size['width']) == (64, 64)
    config = json.loads((tmp_path / 'out/config.json').read_text())
    sizes = config['num_hidden_layers'], config['image_size'], len(config['id2label'])
    assert sizes == (4, 64, 7)
    back = read_checkpoint(str(tmp_path / 'out')).meta['normalization']
    assert back['mean'] == pytest.approx(mean) and back['std'] == pytest.approx(std)


def test_a_model_card_says_what_is_known(write, tmp_path):
    """Classes, training and the metrics of the run; a card that exists is kept."""
    names = [*'abcdef', '<g>']
    meta = dict(iter=30, epoch=0, seed=1, cfg='seed = 1', dataset_meta=dict(classes=names))
    log = tmp_path / '20260101/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(
        '{"lr": 0.1, "loss": 2, "step": 30}\n{"accuracy/top1": 43.5, "time": 1, "step": 0}'
    )
    source = write('classifier', **meta)
    convert(source, tmp_path / 'out', 'hf')
    config = json.loads((tmp_path / 'out/config.json').read_text())
    assert list(config['id2label'].values()) == list(config['label2id']) == names
    card = ModelCard.load(tmp_path / 'out/README.md')
    assert card.data.pipeline_tag == 'image-classification' and card.data.license is None
    for part in ('a, b, c, d, e, f, <g>', '30 iterations with seed 1', '| accuracy/top1 | 43.5 |'):
        assert part in card.text
    assert 'seed = 1' in card.text and str(tmp_path) not in card.text
    (tmp_path / 'out/README.md').write_text('mine')
    convert(source, tmp_path / 'out', 'hf')
    assert (tmp_path / 'out/README.md').read_text() == 'mine'


def test_the_card_of_published_weights_has_their_license_base_and_figures(write, tmp_path):
    name = 'beit_base_patch16_224_pt22k_ft22kto1k'
    Path(write('classifier')).rename(tmp_path / f'{name}.pth')
    convert(tmp_path / f'{name}.pth', tmp_path / 'out', 'hf')
    card = ModelCard.load(tmp_path / 'out/README.md')
    assert (card.data.license, card.data.base_model) == ('mit', 'microsoft/beit-base-patch16-224')
    assert '| top-1 (%) | 85.2 |' in card.text and 'ImageNet-22k and ImageNet-1k' in card.text


def test_out_indices_of_a_hugging_face_segmentor_are_named(write, tmp_path, capsys):
    convert(write('segmentor'), tmp_path / 'out', 'hf')
    convert(tmp_path / 'out', tmp_path / 'back.pth', 'beit_mm', '--verify')
    out = capsys.readouterr().out
    assert 'hf reads blocks [0, 1, 2, 3]: set backbone.out_indices to this' in out
    assert 'skipped: backbone.blocks.4.norm1.weight (of a layer that adds nothing)' in out


@pytest.mark.parametrize(
    ('name', 'there', 'to', 'message'),
    [
        ('gone.pth', 'out.pth', 'hf', r'no checkpoint at .*gone\.pth. Expected'),
        ('mim.pth', 'out.pth', 'hf', r'.*out\.pth is a file: Hugging Face needs the name of a folder'),
        ('mim.pth', '.', 'unilm', '.* is a folder: expected the name of a file'),
        ('decoder.pth', 'out.pth', 'mmpretrain', r'backbone\.patch_embed.* is missing: expected a complete backbone, or'),
        ('mim.pth', 'out.pth', 'timm', 'timm has no model for a mim.*pass --backbone'),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_an_error(write, tmp_path, name, there, to, message):
    torch.save({'decoder.blocks.input.w': torch.zeros(1, 1, 1, 1)}, tmp_path / 'decoder.pth')
    write('mim')
    with pytest.raises(SystemExit, match=f'error: {message}'):
        convert(tmp_path / name, tmp_path / there, to)


def test_vqkd_of_the_official_code_is_read_without_teacher_and_records(make_state, tmp_path):
    """Its file has the teacher, and counts that only its training needs."""
    state = make_state('vqkd')
    theirs = origins.from_ours(state, 'unilm')
    records = {key for key in theirs if 'cluster_size' in key or key.endswith(('initted', 'avg'))}
    assert len(records) == 4 and {'encoder.fc_norm.weight', 'decoder.fc_norm.bias'} <= theirs.keys()
    extra = {'teacher_model.visual.proj': torch.ones(2, 2), 'scaling_layer.shift': torch.ones(3)}
    torch.save(dict(model=theirs | extra), tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    assert found.origin == 'unilm' and same_tensors(found.state, state)
    assert found.skipped.keys() == records | extra.keys()
    tokenizer = VQKD(24, 6, ENCODER)
    load_tokenizer(tokenizer, str(tmp_path / 'a.pth'))
    own = {key: state[key] for key in tokenizer.state_dict()}
    assert same_tensors(tokenizer.state_dict(), own)


@pytest.mark.parametrize(('kind', 'other'), [('tokenizer', 'vqkd'), ('vqkd', 'tokenizer')])
def test_a_tokenizer_of_the_other_version_is_named(write, kind, other):
    names = dict(tokenizer='DiscreteVAE', vqkd='VQKD')
    models = dict(tokenizer=DiscreteVAE(16, 8, width_in=8), vqkd=VQKD(24, 6, ENCODER))
    given, own = names[kind], names[other]
    with pytest.raises(ValueError, match=rf'holds a {given}, the config builds a {own}: set token'):
        load_tokenizer(models[other], write(kind))
