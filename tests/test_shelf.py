"""The published models: the index states the truth, and mmpretrain and mmseg find and run them."""

import json
import re
import runpy
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
import weights
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from modelindex.load_model_index import load as load_index
from PIL import Image
from shapes import draw as shapes

from beit_mm.checkpoint import read_checkpoint
from beit_mm.checkpoint.export import export_checkpoint
from beit_mm.checkpoint.published import published

ROOT = small.ROOT
INDEX = load_index(str(ROOT / 'model-index.yml'))
INDEX.build_models_with_collections()
ENTRIES = {model.name: model for model in INDEX.models}
CLASSES = {'ImageNet-1k': 1000, 'ImageNet-22k': 21841, 'ImageNet-21k': 21841, 'ADE20K': 150}
NAME, SEGMENTOR = 'beit_base_patch16_224_pt22k_ft1k', 'beit_base_patch16_640_pt22k_ft22ktoade20k'
PRETRAINED = 'beit_base_patch16_224_pt22k'

pytestmark = pytest.mark.usefixtures('unformatted')


def make_small() -> dict:
    """Return another arch and the head for it, for `get_model`, which changes its arguments."""
    return dict(backbone=dict(arch=dict(small.ARCH, _delete_=True)), head=dict(in_channels=32))


def printed(code: str) -> str:
    """Return the last line that code prints in a process of its own."""
    done = small.run_python(code)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def build(name: str) -> tuple[Config, torch.nn.Module]:
    """Return the config of a published model and its small model."""
    cfg = Config.fromfile(ROOT / ENTRIES[name].config)
    small.shrink_sizes(cfg.model)
    init_default_scope(cfg.default_scope)
    return cfg, MODELS.build(cfg.model)


def randomize(model: torch.nn.Module, path: Path) -> str:
    """Add noise to the weights, so that outputs differ, and save them."""
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point() and 'running_var' not in key:
            value += 0.3 * torch.randn(value.shape, generator=generator)
    torch.save(dict(state_dict=state, meta={}), path)
    return str(path)


# -- what the index states


def test_the_index_has_no_fault_and_no_name_twice():
    assert INDEX.check(silent=True) == []
    assert len(ENTRIES) == len(INDEX.models) == 30


@pytest.mark.parametrize('name', ENTRIES)
def test_a_model_has_the_parameters_classes_and_figures_of_its_entry(name):
    entry, data = ENTRIES[name], ENTRIES[name].metadata.data
    cfg = Config.fromfile(ROOT / entry.config)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    trained = [p for key, p in model.named_parameters() if not key.startswith('target.')]
    assert sum(p.numel() for p in trained) == data['Parameters']
    assert small.backbone(cfg).arch == name.split('_')[1]
    if 'ft' in name:
        head = cfg.model.get('head') or cfg.model.decode_head
        assert head.num_classes == CLASSES[data['Training Data'][-1]]
    mean = (cfg.get('data_preprocessor') or cfg.model.data_preprocessor).mean
    imagenet = 'ADE20K' in data['Training Data'] or 'pt1k' in name
    assert mean == ([123.675, 116.28, 103.53] if imagenet else [127.5] * 3)
    size = 512 if name.startswith('beitv2') and 'ade20k' in name else None  # not in the name
    size = size or int(re.search(r'patch16_(\d+)', name)[1])
    assert small.backbone(cfg).img_size == size
    for result in entry.results or ():
        source = r'https://github.com/microsoft/unilm/blob/master/beit2?/.*.md'
        assert re.fullmatch(source, entry.data['Results From'])
        figure = result.metrics.get('Top 1 Accuracy') or result.metrics['mIoU']
        header = (ROOT / entry.config).read_text()
        expected = re.search(r'Expected (?:top-1|mIoU): ([\d.]+)', header)[1]
        assert f'{figure:.1f}' == expected


def test_metafiles_and_page_are_written_from_the_table():
    for path, text in weights.written().items():
        assert path.read_text() == text, f'{path} is out of date: python tools/weights.py write'
    page = (ROOT / 'docs/models.md').read_text()
    assert f'\nbash tools/dist_test.sh {ENTRIES[SEGMENTOR].config} {SEGMENTOR} 8\n' in page


def test_the_table_has_the_addresses_and_facts_of_each_model():
    kinds = 'mim', 'classifier', 'segmentor', 'backbone', 'tokenizer'
    for name, entry in published().items():
        assert entry['kind'] in kinds and entry.keys() >= {'family', 'source', 'seen', 'data'}, name
        assert re.fullmatch(r'(https://[^{}]+\.pth|hf://\w+/[\w.-]+)', entry['address']), name
        assert 'unilm.blob' not in entry['address'] and 'conversationhub' not in entry['address']
        assert all(re.fullmatch(r'hf://\w+/[\w.-]+', other) for other in entry.get('also', ()))
        assert ('config' in entry) == ('parameters' in entry) == (name in ENTRIES)
    vq_kd = 'vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7'
    assert {'beit_base_patch16_224_pt1k_800ep', vq_kd} <= set(published())


@pytest.mark.parametrize('name', [PRETRAINED, NAME, SEGMENTOR])
def test_the_entrys_command_converts_an_official_file(name, tmp_path, monkeypatch):
    """The file lies where the command looks for the name, so nothing is downloaded."""
    _, model = build(name)
    randomize(model, tmp_path / 'random.pth')
    state = {key: value for key, value in model.state_dict().items() if 'target' not in key}
    export_checkpoint(dict(state), 'unilm', tmp_path / name, {}, safetensors=False)
    command = shlex.split(ENTRIES[name].data['Converted From']['Command'])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / command[1]))['main'](command[2:])
    made = torch.load(f'checkpoints/{name}_beit-mm.pth')['state_dict']
    assert read_checkpoint(name).origin == 'unilm' and small.same_tensors(made, state)


# -- which libraries find them


@pytest.mark.any_stack
@pytest.mark.parametrize('first', ['beit_mm', 'mmpretrain'])
def test_mmpretrain_lists_and_builds_our_models_whichever_is_imported_first(first):
    """In its scope a bare `BEiT` is another class, so names must lead to our parts."""
    head = dict(in_channels=32, out_channels=small.TOKENIZER['vocab_size'])
    mim = dict(make_small(), head=head, target=dict(tokenizer=small.TOKENIZER))
    code = f"""
import json, sys, {first}
import beit_mm, mmpretrain
names = set(mmpretrain.list_models('beit*_patch16_'))
models = [mmpretrain.get_model({NAME!r}, **{make_small()}), mmpretrain.get_model({PRETRAINED!r}, **{mim})]
for name in names:  # what a name means, without the weights
    mmpretrain.apis.model.ModelHub.get(name)
finders = [finder for finder in sys.meta_path if type(finder).__module__.startswith('beit_mm')]
kinds = [type(part).__module__ for part in (models[0].backbone, models[1].backbone, models[1])]
print(json.dumps([sorted(names), kinds, len(finders)]))
"""
    expected = sorted(name for name in ENTRIES if 'ade20k' not in name)
    kinds = ['beit_mm.models.beit', 'beit_mm.models.beit', 'beit_mm.models.pretrainer']
    assert json.loads(printed(code)) == [expected, kinds, 0]


def test_without_mmpretrain_its_import_fails_as_usual():
    code = """
import sys, beit_mm
sys.modules['mmpretrain'] = None
try:
    import mmpretrain.apis.model
except ModuleNotFoundError as error:
    print(error)
"""
    assert 'mmpretrain' in printed(code)


def test_published_files_are_loaded_by_name(tmp_path, monkeypatch, capfd):
    """By mmpretrain's `pretrained=True`, and by any loader of mmengine with `beit_mm://`."""
    from mmpretrain import get_model

    model, official = get_model(NAME, **make_small()), tmp_path / 'official.pth'
    randomize(model, tmp_path / 'random.pth')
    export_checkpoint(dict(model.state_dict()), 'unilm', official, {}, safetensors=False)
    monkeypatch.setitem(published(), NAME, dict(published()[NAME], address=str(official)))
    hint = 'put beit_mm:// before its path'
    found = get_model(NAME, pretrained=True, **make_small())
    assert small.same_tensors(model.state_dict(), found.state_dict())
    assert hint not in str(capfd.readouterr())
    get_model(NAME, pretrained=str(official), **make_small())
    assert hint in str(capfd.readouterr())
    raw = CheckpointLoader.load_checkpoint(NAME, 'cpu')['model']
    ours = CheckpointLoader.load_checkpoint(f'beit_mm://{NAME}', 'cpu')['state_dict']
    assert raw.keys() != ours.keys() == model.state_dict().keys()


# -- their inferencers give the model's output


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / 'scene.png'
    cv2.imwrite(str(path), shapes.scene(0, 3, 80)[0][..., ::-1])
    return path


def normalize(image: np.ndarray, mean: float | list, std: float | list) -> torch.Tensor:
    """Return RGB [1, 3, H, W] of RGB uint8 [H, W, 3]."""
    return torch.tensor((image - np.array(mean)) / np.array(std)).float().permute(2, 0, 1)[None]


@pytest.mark.parametrize('by', ['name', 'config'])
def test_the_classification_inferencer_gives_the_models_output(by, image, tmp_path):
    from mmpretrain import ImageClassificationInferencer

    cfg, own = build(NAME)
    cfg.dump(tmp_path / 'config.py')
    model, settings = (NAME, make_small()) if by == 'name' else (str(tmp_path / 'config.py'), {})
    weights = randomize(own, tmp_path / 'weights.pth')
    inferencer = ImageClassificationInferencer(model, pretrained=weights, device='cpu', **settings)
    result = inferencer(str(image))[0]

    resized = np.array(Image.open(image).resize((256, 256), Image.Resampling.BICUBIC))
    pixels = normalize(resized[16:240, 16:240], 127.5, 127.5)
    with torch.no_grad():
        expected = own.eval()(pixels, mode='tensor').softmax(-1)[0]
    assert result['pred_label'] == expected.argmax() and expected.max() < 0.9
    np.testing.assert_allclose(result['pred_scores'], expected, atol=1e-5)
    assert len(inferencer.classes) == 1000


def test_the_segmentation_inferencer_gives_the_models_output(image, tmp_path):
    from mmseg.apis import MMSegInferencer

    name, config = f'segmentation/{Path(ENTRIES[SEGMENTOR].config).stem}', tmp_path / 'config.py'
    cfg = small.shrink(small.load(name), None, tmp_path)
    cfg.dump(config)
    own = revert_sync_batchnorm(MODELS.build(cfg.model))
    weights = randomize(own, tmp_path / 'weights.pth')
    inferencer = MMSegInferencer(str(config), weights, dataset_name='ade20k', device='cpu')
    found = inferencer(str(image))['predictions']

    preprocessor = cfg.model.data_preprocessor
    pixels = normalize(np.array(Image.open(image)), preprocessor.mean, preprocessor.std)
    with torch.no_grad():  # the image is as large as the crop: one window
        logits = F.interpolate(own.eval()(pixels, mode='tensor'), (80, 80), mode='bilinear')
    assert len(np.unique(found)) > 1
    assert (found == logits.argmax(1)[0].numpy()).mean() > 0.999
