"""Inferencers return what the model predicts, however images are given."""

import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import small
import torch

from beit_mm.apis import AttentionInferencer, FillInInferencer, TokenizerInferencer
from beit_mm.apis.base_inferencer import Inferencer, output_names
from beit_mm.models.attention import attention_of_blocks

SIZES = [(64, 64), (80, 100), (64, 64), (50, 90), (64, 64)]
CONFIGS = {
    TokenizerInferencer: 'tokenizer',
    FillInInferencer: 'pretrain',
    AttentionInferencer: 'classification',
}


def make(kind: type[Inferencer], folder: Path, name: str = '', **options) -> Inferencer:
    """Return an inferencer for a config at toy size and a checkpoint with random weights."""
    files = small.with_weights(f'quickstart/{name or CONFIGS[kind]}', folder)
    return kind(*files, device='cpu', **dict(show_progress=False) | options)


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / 'photos'
    for i, size in enumerate(SIZES):
        mmcv.imwrite(rng.integers(256, size=(*size, 3), dtype=np.uint8), str(folder / f'{i}.png'))
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.mark.parametrize('kind', CONFIGS)
def test_files_folders_arrays_and_batches_give_the_same(kind, photos, tmp_path):
    inferencer = make(kind, tmp_path)
    if kind is AttentionInferencer:  # this config does not resize
        for path in photos.glob('[13].png'):
            path.unlink()
    files = sorted(map(str, photos.glob('*.png')))
    arrays = [mmcv.imread(path) for path in files]
    one_by_one = inferencer(str(photos))['predictions']
    for inputs, batch_size in ((files, 2), (arrays, len(files)), (photos, 3)):
        again = inferencer(inputs, batch_size=batch_size)['predictions']
        for a, b in zip(one_by_one, again, strict=True):
            assert a.keys() == b.keys()
            assert all(np.allclose(a[key], b[key], rtol=1e-4, atol=1e-5) for key in a)
    assert one_by_one[0] != one_by_one[1]


def test_tokens_are_written_as_json_and_pictures(photos, tmp_path, capsys):
    for name in ('cats/2020/1.PNG', 'dogs/1.png'):
        (photos / name).parent.mkdir(parents=True)
        shutil.copy(photos / '0.png', photos / name)
    inferencer = make(TokenizerInferencer, tmp_path, show_progress=True)
    folders = dict(img_out_dir=tmp_path / 'png', pred_out_dir=tmp_path / 'json')
    result = inferencer(str(photos), batch_size=4, return_vis=True, **folders)
    assert 'Inference' in capsys.readouterr().out  # the progress bar
    photo = mmcv.imread(photos / '1.png', channel_order='rgb')
    view = mmcv.imresize(photo, (32, 32), interpolation='lanczos', backend='pillow')
    ids = inferencer.model.tokens(torch.from_numpy(view.transpose(2, 0, 1))[None] / 255)
    assert result['predictions'][1]['ids'] == ids[0].tolist()
    assert json.loads((tmp_path / 'json/1.json').read_text()) == result['predictions'][1]
    decoded = (255 * inferencer.model.decode(ids)[0].detach()).round().to(torch.uint8)
    expected = np.concatenate([view, decoded.permute(1, 2, 0).numpy()], 1)
    assert (result['visualization'][1] == expected).all()
    written = mmcv.imread(tmp_path / 'png/1.png', channel_order='rgb')
    assert (written == expected).all()

    names = {*map(str, range(len(SIZES))), 'cats/2020/1', 'dogs/1'}
    for suffix in ('png', 'json'):
        folder = tmp_path / suffix
        files = (path.relative_to(folder) for path in folder.rglob('*.*'))
        assert {str(path) for path in files} == {f'{name}.{suffix}' for name in names}


def test_output_names_are_those_of_the_files_and_unique():
    assert output_names(['a/1.png', 'a/2.png']) == ['1', '2']
    assert output_names(['a/1.png', 'b/1.png']) == ['a/1', 'b/1']
    assert output_names([np.zeros((1, 1, 3)), Path('a/x.y.png')]) == ['000000', 'x.y']
    clash = output_names(['a/1.png', 'a/1.jpg', 'b/2.png'])
    assert clash == ['a/000000_1', 'a/000001_1', 'b/000002_2']


def test_guesses_replace_masked_ids_and_follow_the_seed(photos, tmp_path):
    inferencer = make(FillInInferencer, tmp_path)
    first, other = (
        inferencer(photos, seed=seed, return_datasamples=True, return_vis=True) for seed in (0, 1)
    )
    model = inferencer.model
    for sample in first['predictions']:
        assert 0 < sample.mask.sum() <= 25
        assert (sample.guessed == sample.ids)[~sample.mask].all()
        mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
        image = (sample.image.float()[None] - mean) / std
        logits = model.head(model.backbone(image, sample.mask[None])[0][0, 1:])
        assert (logits.argmax(-1).view(8, 8) == sample.guessed)[sample.mask].all()
    masks, others = ([s.mask.tolist() for s in each['predictions']] for each in (first, other))
    assert masks != others and masks[0] != masks[1]
    assert first['visualization'][0].shape == (64, 3 * 64, 3)
    inferencer.draw = None  # not called without return_vis and img_out_dir
    assert inferencer(photos, pred_out_dir=tmp_path / 'json')['visualization'] == []


def test_attention_is_that_of_the_middle_patch_in_the_last_block(photos, tmp_path):
    inferencer = make(AttentionInferencer, tmp_path)
    attention = inferencer(str(photos / '0.png'))['predictions'][0]['attention']
    bgr = torch.from_numpy(mmcv.imread(photos / '0.png').transpose(2, 0, 1))
    image = inferencer.model.data_preprocessor(dict(inputs=[bgr]))['inputs']
    expected = attention_of_blocks(inferencer.model.backbone, image)[-1][0, :, 1 + 4 * 8 + 4, 1:]
    torch.testing.assert_close(torch.tensor(attention), expected.unflatten(-1, (8, 8)))


def test_wrong_inputs_and_models_are_errors_that_say_what_was_expected(tmp_path, photos):
    inferencer = make(TokenizerInferencer, tmp_path)
    with pytest.raises(TypeError, match='dtype float64: expected uint8'):
        inferencer(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r'shape \(8, 8\): expected \[H, W, 3\]'):
        inferencer(np.zeros((8, 8), np.uint8))
    with pytest.raises(FileNotFoundError, match='none.png not found: expected an image file'):
        inferencer([photos / '0.png', tmp_path / 'none.png'])
    with pytest.raises(ValueError, match='the model is a DiscreteVAE: expected a BEiTPretrainer'):
        make(FillInInferencer, tmp_path, 'tokenizer')
