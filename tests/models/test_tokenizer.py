"""The tokenizer of docs/tokenizers.md works wherever a tokenizer does."""

import json
import re
import sys

import numpy as np
import pytest
import small
import torch
from mmengine.config import Config
from shapes import draw as shapes

from beit_mm.apis import TokenizerInferencer, deploy
from beit_mm.checkpoint.loading import load_model
from beit_mm.config_check.preflight import preflight
from beit_mm.data.token_cache import TokenCache
from beit_mm.engine import cache_tokens
from beit_mm.engine.launch import build_runner
from beit_mm.models import TokenTarget
from beit_mm.viz import tokens

pytestmark = pytest.mark.usefixtures('unformatted')
EXAMPLE, CONFIG = re.findall(
    r'```python\n(.+?)```', (small.ROOT / 'docs/tokenizers.md').read_text(), re.S
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('tokenizer') / 'shapes'
    shapes.draw_dataset(out, 12, 4, segmentation_train=2, segmentation_val=2, labels=(12,), jobs=1)
    return out


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Return the config and the checkpoint of the example after some iterations."""
    folder = tmp_path_factory.mktemp('own')
    (folder / 'color_tokenizer.py').write_text(EXAMPLE)
    config = CONFIG.replace("'configs/", f"'{small.ROOT}/configs/")
    (folder / 'config.py').write_text(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        cfg = small.shrink(Config.fromfile(folder / 'config.py'), data, folder)
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.vocab_size = 64
        cfg.train_cfg.update(max_iters=40, val_interval=40)
        cfg.optim_wrapper.optimizer.lr = 0.02
        cfg.param_scheduler = []
        cfg.default_hooks.checkpoint.interval = 40
        assert [str(found) for found in preflight(cfg) if found.stops] == []
        cfg.dump(folder / 'config.py')
        runner = build_runner(cfg)
        runner.train()
        yield folder / 'config.py', folder / 'iter_40.pth', runner
    sys.modules.pop('color_tokenizer', None)


def test_the_example_has_thirty_lines_and_learns_in_a_runner(trained):
    assert EXAMPLE.count('\n') <= 30
    losses = trained[2].message_hub.get_scalar('train/loss').data[0]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    metrics = trained[2].message_hub
    assert metrics.get_scalar('val/tokenizer/codes_used').current() > 8


def pretraining(data, trained, folder) -> Config:
    cfg = small.shrink(small.load('quickstart/pretrain'), data, folder)
    cfg.custom_imports = dict(imports=['color_tokenizer'])
    cfg.model.target.tokenizer = dict(type='ColorTokenizer')
    cfg.model.target.checkpoint = str(trained[1])
    cfg.model.head.out_channels = 64
    return cfg


def test_pre_training_reads_its_tokens_from_the_model_and_from_a_cache(data, trained, tmp_path):
    cfg = pretraining(data, trained, tmp_path / 'work')
    assert [str(found) for found in preflight(cfg) if found.stops] == []
    cfg.dump(tmp_path / 'config.py')
    out = tmp_path / 'tokens'
    cache_tokens.main(
        [*map(str, (tmp_path / 'config.py', '--out', out, '--crops', 2, '--jobs', 0))]
    )
    ids = np.fromfile(out / 'ids', '<u2')
    assert len(np.unique(ids)) > 8 and ids.max() < 64
    fingerprint = TokenTarget(cfg.model.target.tokenizer, str(trained[1])).fingerprint()
    assert TokenCache(out).about['tokenizer'] == fingerprint
    losses = []
    for cache in (None, str(out)):
        cfg = pretraining(data, trained, tmp_path / f'run_{cache is None}')
        cfg.train_dataloader.dataset.update(token_cache=cache, num_crops=2)
        runner = build_runner(cfg)
        runner.train()
        assert runner.model.target_fingerprint == fingerprint
        losses.append(runner.message_hub.get_scalar('train/loss').data[0].tolist())
    assert losses[0] == losses[1]


def test_a_checkpoint_of_another_tokenizer_is_refused(data, trained, tmp_path):
    cfg = pretraining(data, trained, tmp_path)
    cfg.model.target.tokenizer.vocab_size = 32
    cfg.model.head.out_channels = 32
    stops = [str(found) for found in preflight(cfg) if found.stops]
    assert any('does not fit this ColorTokenizer' in found for found in stops)
    with pytest.raises(ValueError, match=r'colors: \(64, 3\) ≠ \(32, 3\)'):
        build_runner(cfg).train()
    with pytest.raises(TypeError, match=r'tokenizer is a BEiT: expected a subclass'):
        TokenTarget(dict(type='BEiT', arch=small.ARCH))


def test_a_token_size_that_does_not_fit_the_stride_is_found_before_training(
    data, trained, tmp_path
):
    cfg = pretraining(data, trained, tmp_path)
    cfg.train_dataloader.dataset.dataset.pipeline[2].token_size = 64
    stops = [str(found) for found in preflight(cfg) if found.stops]
    assert any('16×16 tokens of 4 pixels for 8×8 patches: set 32' in found for found in stops)


def test_tokens_are_shown_inferred_and_exported(trained, tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    model = load_model(*trained[:2])
    tokens.write_tokens(tmp_path / 'a.html', model, {'a.png': image})
    html = (tmp_path / 'a.html').read_text()
    assert 'a.png: 12×8 tokens' in html and 'PSNR' not in html and 'reconstruction<' not in html
    inferencer = TokenizerInferencer(*trained[:2], device='cpu', show_progress=False)
    small_image = np.ascontiguousarray(image[:, :32])  # of the size that the pipeline resizes to
    found = inferencer([small_image[..., ::-1]], return_vis=True, pred_out_dir=tmp_path)
    pixels = torch.from_numpy(small_image.transpose(2, 0, 1).copy())[None] / 255
    assert found['predictions'] == [dict(ids=model.tokens(pixels)[0].tolist())]
    assert json.loads((tmp_path / '000000.json').read_text()) == found['predictions'][0]
    assert found['visualization'][0].shape == (32, 64, 3)
    deployed = deploy.Deployed(model).eval()
    for file_format, suffix in deploy.FORMATS.items():
        deploy.export(deployed, tmp_path / f'a{suffix}', file_format, (64, 64))
        assert (
            deploy.largest_difference(deployed, tmp_path / f'a{suffix}', file_format, (40, 72)) == 0
        )
