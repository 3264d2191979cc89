"""The published models: what the index says is so, and mmpretrain and mmseg find and run them."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from modelindex.load_model_index import load as load_index
from PIL import Image
from shapes import draw as shapes

from beit_mm.checkpoint.export import export
from beit_mm.checkpoint.published import published
from beit_mm.utils import model_hub as shelf

ROOT = Path(__file__).parents[1]
INDEX = load_index(str(ROOT / 'model-index.yml'))
INDEX.build_models_with_collections()
ENTRIES = {model.name: model for model in INDEX.models}
MMPRETRAIN = [name for name in ENTRIES if 'ade20k' not in name]
CLASSES = {'ImageNet-1k': 1000, 'ImageNet-22k': 21841, 'ADE20K': 150}
OWN = [name for name in ENTRIES if name.startswith('beit_')]  # each has a config of its own
NAME, SEGMENTOR = 'beit_base_patch16_224_pt22k_ft1k', 'beit_base_patch16_640_pt22k_ft22ktoade20k'


pytestmark = pytest.mark.usefixtures('unformatted')


def toy() -> dict:
    """For `get_model`, which changes what it is given: another arch, and the head for it."""
    return dict(backbone=dict(arch=dict(small.ARCH, _delete_=True)), head=dict(in_channels=32))


def python(code: str) -> str:
    """What code prints last in a process of its own."""
    path = os.pathsep.join([*filter(None, [os.environ.get('PYTHONPATH')]), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | dict(PYTHONPATH=path),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


# -- what the index says -----------------------------------------------------------------------------------------------


def test_the_index_has_no_fault_and_no_name_twice():
    assert INDEX.check(silent=True) == []
    assert len(ENTRIES) == len(INDEX.models) == 22


@pytest.mark.parametrize('name', ENTRIES)
def test_a_model_fits_its_config_and_says_what_its_config_says(name):
    entry = ENTRIES[name]
    cfg = Config.fromfile(ROOT / entry.config)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    trained = [
        p for key, p in model.named_parameters() if not key.startswith('target.')
    ]  # but for the tokenizer
    assert sum(p.numel() for p in trained) == entry.metadata.data['Parameters']
    assert small.backbone(cfg).arch == name.split('_')[1]
    if name in OWN:
        assert small.backbone(cfg).img_size == int(re.search(r'patch16_(\d+)', name)[1])
    data = entry.metadata.data['Training Data']
    if 'ft' in name:
        head = cfg.model.get('head') or cfg.model.decode_head
        assert head.num_classes == CLASSES[data[-1]]
    mean = (cfg.get('data_preprocessor') or cfg.model.data_preprocessor).mean
    assert mean == (
        [123.675, 116.28, 103.53] if 'ADE20K' in data or 'pt1k' in name else [127.5] * 3
    )


@pytest.mark.parametrize('name', OWN)
def test_a_figure_is_the_published_one_that_the_config_expects(name):
    entry = ENTRIES[name]
    for result in entry.results or ():
        assert re.fullmatch(
            r'https://github.com/microsoft/unilm/blob/master/beit/.*README.md',
            entry.data['Results From'],
        )
        figure = result.metrics.get('Top 1 Accuracy') or result.metrics['mIoU']
        expected = re.search(
            r'Expected (?:top-1|mIoU): ([\d.]+)', (ROOT / entry.config).read_text()
        )[1]
        assert f'{figure:.1f}' == expected


def test_metafiles_and_page_are_written_from_the_table():
    tool = runpy.run_path(str(ROOT / 'tools/weights.py'))
    for path, text in tool['written']().items():
        assert path.read_text() == text, f'{path} is out of date: python tools/weights.py write'
    page = (ROOT / 'docs/models.md').read_text()
    assert f'\nbash tools/dist_test.sh {ENTRIES[SEGMENTOR].config} {SEGMENTOR} 8\n' in page


def test_the_table_has_what_each_model_needs():
    kinds, keys = (
        {'mim', 'classifier', 'segmentor', 'backbone', 'tokenizer'},
        {'family', 'source', 'seen', 'data'},
    )
    for name, entry in published().items():
        assert entry['kind'] in kinds and entry.keys() >= keys, name
        assert re.fullmatch(r'(https://[^{}]+\.pth|hf://\w+/[\w.-]+)', entry['address']), name
        assert 'unilm.blob' not in entry['address'] and 'conversationhub' not in entry['address']
        assert all(re.fullmatch(r'hf://\w+/[\w.-]+', other) for other in entry.get('also', ())), (
            name
        )
        assert ('config' in entry) == ('parameters' in entry) == (name in ENTRIES)
    assert {
        'beit_base_patch16_224_pt1k_800ep',
        'vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7',
    } <= set(published())


@pytest.mark.parametrize('name', ['beit_base_patch16_224_pt22k', NAME, SEGMENTOR])
def test_what_the_command_makes_of_a_published_file_is_the_whole_model(name, tmp_path, monkeypatch):
    """Of a file with the keys of the official code, at toy size."""
    cfg = Config.fromfile(ROOT / ENTRIES[name].config)
    small.shrink_sizes(cfg.model)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    randomised(model, tmp_path / 'drawn.pth')
    state = {
        key: value for key, value in model.state_dict().items() if 'target' not in key
    }  # the run's own
    export(
        dict(state), 'unilm', tmp_path / name, {}, safetensors=False
    )  # where the name is a path, nothing is downloaded
    assert weights_of(tmp_path / name).keys() != state.keys()
    command = shlex.split(ENTRIES[name].data['Converted From']['Command'])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / command[1]))['main'](command[2:])
    made = weights_of(tmp_path / f'checkpoints/{name}_beit-mm.pth')
    assert made.keys() == state.keys()
    assert all(torch.equal(made[key], state[key]) for key in made)


# -- who finds them ----------------------------------------------------------------------------------------------------


def test_importing_the_package_imports_neither_torch_nor_openmmlab():
    heavy = '{"torch", "mmengine", "mmcv", "mmpretrain", "mmseg", "numpy"}'
    assert python(f'import sys, beit_mm; print({heavy} & set(sys.modules))') == 'set()'


@pytest.mark.any_stack
@pytest.mark.parametrize('first', ['beit_mm', 'mmpretrain'])
def test_mmpretrain_lists_and_builds_our_models_whichever_is_imported_first(first):
    code = f"""
import json, sys, {first}
import beit_mm, mmpretrain
names = set(mmpretrain.list_models('beit*_patch16_'))
model = mmpretrain.get_model({NAME!r}, **{toy()})
for name in names:  # what a name means, without the weights
    mmpretrain.apis.model.ModelHub.get(name)
finders = [finder for finder in sys.meta_path if type(finder).__module__ == 'beit_mm.utils.model_hub']
print(json.dumps([sorted(names), type(model.backbone).__module__, len(finders)]))
"""
    assert json.loads(python(code)) == [sorted(MMPRETRAIN), 'beit_mm.models.beit', 0]


def test_without_mmpretrain_the_import_of_it_fails_as_ever():
    code = """
import sys, beit_mm
sys.modules['mmpretrain'] = None
try:
    import mmpretrain.apis.model
except ModuleNotFoundError as error:
    print(error)
"""
    assert 'mmpretrain' in python(code)


def test_pretrained_weights_are_built_from_our_parts_by_name():
    """In mmpretrain's scope a bare `BEiT` is another class."""
    from mmpretrain import get_model

    head = dict(in_channels=32, out_channels=small.TOKENIZER['vocab_size'])
    target = dict(tokenizer=dict(small.TOKENIZER))
    model = get_model('beit_base_patch16_224_pt22k', **toy() | dict(head=head, target=target))
    assert type(model).__module__ == 'beit_mm.models.pretrainer'
    assert type(model.backbone).__module__ == 'beit_mm.models.beit'


def test_published_files_are_taken_as_they_are_by_name(tmp_path, monkeypatch, capfd):
    """By mmpretrain's `pretrained=True`, and by any loader of mmengine with `beit_mm://`."""
    from mmengine.runner.checkpoint import CheckpointLoader
    from mmpretrain import get_model

    model = get_model(NAME, **toy())
    randomised(model, tmp_path / 'drawn.pth')
    export(dict(model.state_dict()), 'unilm', tmp_path / 'official.pth', {}, safetensors=False)
    entry = dict(published()[NAME], address=str(tmp_path / 'official.pth'))
    monkeypatch.setitem(published(), NAME, entry)
    found = get_model(NAME, pretrained=True, **toy()).state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())
    assert 'put beit_mm:// before its path' not in (out := capfd.readouterr()).out + out.err
    get_model(NAME, pretrained=str(tmp_path / 'official.pth'), **toy())
    assert 'put beit_mm:// before its path' in (out := capfd.readouterr()).out + out.err
    raw = CheckpointLoader.load_checkpoint(NAME, 'cpu')['model']
    ours = CheckpointLoader.load_checkpoint(f'beit_mm://{NAME}', 'cpu')['state_dict']
    assert raw.keys() != ours.keys() == model.state_dict().keys()


# -- they run ----------------------------------------------------------------------------------------------------------


def weights_of(path: Path) -> dict:
    loaded = torch.load(path, weights_only=True)
    return loaded.get('state_dict') or loaded['model']


def randomised(model: torch.nn.Module, path: Path) -> str:
    """A checkpoint of the model, its weights drawn so that outputs differ."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: value + 0.3 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for key, value in model.state_dict().items()
        if 'running_var' not in key
    }
    torch.save(dict(state_dict=state, meta={}), path)
    model.load_state_dict(state, strict=False)
    return str(path)


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / 'scene.png'
    cv2.imwrite(str(path), shapes.scene(0, 3, 80)[0][..., ::-1])
    return path


def normalised(image: np.ndarray, mean: float | list, std: float | list) -> torch.Tensor:
    """BGR uint8 [H, W, 3] → RGB [1, 3, H, W]."""
    return (
        torch.tensor((image[..., ::-1] - np.array(mean)) / np.array(std))
        .float()
        .permute(2, 0, 1)[None]
    )


@pytest.mark.parametrize('by', ['name', 'config'])
def test_the_classification_inferencer_says_what_the_model_says(by, image, tmp_path):
    from mmpretrain import ImageClassificationInferencer

    cfg = Config.fromfile(ROOT / ENTRIES[NAME].config)
    small.shrink_sizes(cfg.model)
    init_default_scope('mmpretrain')
    own = MODELS.build(cfg.model)
    weights = randomised(own, tmp_path / 'weights.pth')
    if by == 'name':
        inferencer = ImageClassificationInferencer(NAME, pretrained=weights, device='cpu', **toy())
    else:
        cfg.dump(tmp_path / 'config.py')
        inferencer = ImageClassificationInferencer(
            str(tmp_path / 'config.py'), pretrained=weights, device='cpu'
        )
    result = inferencer(str(image))[0]

    resized = np.array(Image.open(image).resize((256, 256), Image.Resampling.BICUBIC))[
        16:240, 16:240, ::-1
    ]
    with torch.no_grad():
        expected = own.eval()(normalised(resized, 127.5, 127.5), mode='tensor').softmax(-1)[0]
    assert result['pred_label'] == expected.argmax() and expected.max() < 0.9
    np.testing.assert_allclose(result['pred_scores'], expected, atol=1e-5)
    assert len(inferencer.classes) == 1000


def test_the_segmentation_inferencer_says_what_the_model_says(image, tmp_path):
    from mmengine.model import revert_sync_batchnorm
    from mmseg.apis import MMSegInferencer

    cfg = small.shrink(
        small.load('segmentation/' + Path(ENTRIES[SEGMENTOR].config).stem), None, tmp_path
    )
    cfg.dump(tmp_path / 'config.py')
    own = revert_sync_batchnorm(MODELS.build(cfg.model))
    weights = randomised(own, tmp_path / 'weights.pth')
    inferencer = MMSegInferencer(
        str(tmp_path / 'config.py'), weights=weights, dataset_name='ade20k', device='cpu'
    )
    found = inferencer(str(image))['predictions']

    preprocessor = cfg.model.data_preprocessor
    pixels = normalised(cv2.imread(str(image)), preprocessor.mean, preprocessor.std)
    with torch.no_grad():  # the image is as large as the crop: one window
        logits = F.interpolate(own.eval()(pixels, mode='tensor'), (80, 80), mode='bilinear')
    assert len(np.unique(found)) > 1
    assert (found == logits.argmax(1)[0].numpy()).mean() > 0.999


def test_the_index_is_found_in_a_checkout():
    assert (shelf.root() / 'model-index.yml').samefile(ROOT / 'model-index.yml')
