"""Inferencers give what the model gives, however images come in. tests/test_shelf.py has the hosts' own."""

import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from beit_mm.apis import AttentionInferencer, FillInInferencer, TokenizerInferencer
from beit_mm.apis.base_inferencer import output_names

SIZES = [(64, 64), (80, 100), (64, 64), (50, 90), (64, 64)]


def made(name: str, folder: Path) -> tuple[Config, str]:
    """A config at toy size, in a file's place, and a checkpoint as training writes it."""
    torch.manual_seed(0)
    cfg = small.shrink(small.load(f'quickstart/{name}'), None, folder)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    path = folder / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return cfg, str(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / 'photos'
    for i, size in enumerate(SIZES):
        mmcv.imwrite(rng.integers(256, size=(*size, 3), dtype=np.uint8), str(folder / f'{i}.png'))
    (folder / 'notes.txt').write_text('no image')
    return folder


CASES = [
    (TokenizerInferencer, 'tokenizer'),
    (FillInInferencer, 'pretrain'),
    (AttentionInferencer, 'classification'),
]


@pytest.mark.parametrize('kind, name', CASES)
def test_files_folders_arrays_and_batches_give_the_same(kind, name, photos, tmp_path):
    inferencer = kind(*made(name, tmp_path), device='cpu', show_progress=False)
    if kind is AttentionInferencer:  # this config has no resizing
        for path in photos.glob('[13].png'):
            path.unlink()
    files = sorted(map(str, photos.glob('*.png')))
    one_by_one = inferencer(str(photos))['predictions']
    arrays = [mmcv.imread(path) for path in files]
    for inputs, batch in ((files, 2), (arrays, len(files)), (photos, 3)):
        again = inferencer(inputs, batch_size=batch)['predictions']
        assert len(again) == len(files)
        for a, b in zip(one_by_one, again, strict=True):
            assert all(
                np.allclose(a[key], b[key], rtol=1e-4, atol=1e-5) for key in a.keys() | b.keys()
            )
    assert one_by_one[0] != one_by_one[1]


def test_tokens_are_the_models_and_go_to_json_and_pictures(photos, tmp_path, capsys):
    inferencer = TokenizerInferencer(*made('tokenizer', tmp_path), device='cpu')
    result = inferencer(
        str(photos),
        batch_size=4,
        img_out_dir=tmp_path / 'seen',
        pred_out_dir=tmp_path / 'ids',
        return_vis=True,
    )
    assert 'Inference' in capsys.readouterr().out  # the progress bar
    view = mmcv.imresize(
        mmcv.imread(photos / '1.png'), (32, 32), interpolation='lanczos', backend='pillow'
    )
    rgb = torch.from_numpy(view[..., ::-1].transpose(2, 0, 1).copy())[None] / 255
    ids = inferencer.model.tokens(rgb)
    assert result['predictions'][1]['ids'] == ids[0].tolist()
    assert json.loads((tmp_path / 'ids/1.json').read_text()) == result['predictions'][1]
    drawn = (
        (255 * inferencer.model.decode(ids)[0].detach())
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .numpy()
    )
    wanted = np.concatenate([view[..., ::-1], drawn], 1)
    assert (result['visualization'][1] == wanted).all()
    assert (mmcv.imread(tmp_path / 'seen/1.png')[..., ::-1] == wanted).all()
    assert sorted(path.name for path in (tmp_path / 'seen').iterdir()) == [
        f'{i}.png' for i in range(5)
    ]


def test_sub_folders_are_read_and_their_names_kept(photos, tmp_path):
    for name in ('cats/2020/1.PNG', 'dogs/1.png'):
        (photos / name).parent.mkdir(parents=True)
        shutil.copy(photos / '0.png', photos / name)
    inferencer = TokenizerInferencer(
        *made('tokenizer', tmp_path), device='cpu', show_progress=False
    )
    found = inferencer(
        photos, batch_size=7, img_out_dir=tmp_path / 'seen', pred_out_dir=tmp_path / 'ids'
    )
    assert len(found['predictions']) == len(SIZES) + 2
    for folder, suffix in (('seen', 'png'), ('ids', 'json')):
        written = {
            str(path.relative_to(tmp_path / folder))
            for path in (tmp_path / folder).rglob(f'*.{suffix}')
        }
        assert written == {
            f'{name}.{suffix}' for name in (*range(len(SIZES)), 'cats/2020/1', 'dogs/1')
        }


@pytest.mark.parametrize('inputs, names', [
    (['a/1.png', 'a/2.png'], ['1', '2']),
    (['a/1.png', 'b/1.png'], ['a/1', 'b/1']),
    (['a/1.png', 'a/1.jpg', 'b/2.png'], ['a/000000_1', 'a/000001_1', 'b/2']),
    ([np.zeros((1, 1, 3)), Path('a/x.y.png')], ['000000', 'x.y']),
    (
        ['000004_x.png', 'a.png', 'b.png', 'c.png', 'x.jpg', 'x.png'],
        ['000004_x', 'a', 'b', 'c', '000004_000004_x', '000005_x'],
    ),
])  # fmt: skip
def test_what_is_written_is_named_as_the_image_in_the_folder_of_all(inputs, names):
    assert output_names(inputs) == names


def test_nothing_is_drawn_that_nobody_asked_for(photos, tmp_path):
    inferencer = FillInInferencer(*made('pretrain', tmp_path), device='cpu', show_progress=False)
    inferencer.draw = None
    assert inferencer(photos, pred_out_dir=tmp_path / 'json')['visualization'] == []


def test_guesses_stand_where_the_image_is_hidden_and_follow_the_seed(photos, tmp_path):
    inferencer = FillInInferencer(*made('pretrain', tmp_path), device='cpu', show_progress=False)
    first, other = (
        inferencer(photos, seed=seed, return_datasamples=True, return_vis=True) for seed in (0, 1)
    )
    for sample in first['predictions']:
        assert 0 < sample.mask.sum() <= 25
        assert (sample.guessed == sample.ids)[~sample.mask].all()
        logits = inferencer.model.head(
            inferencer.model.backbone(
                (sample.image.float()[None] - inferencer.model.data_preprocessor.mean)
                / inferencer.model.data_preprocessor.std,
                sample.mask[None],
            )[0][0, 1:]
        )
        assert (logits.argmax(-1).view(8, 8) == sample.guessed)[sample.mask].all()
    assert any(
        (a.mask != b.mask).any()
        for a, b in zip(first['predictions'], other['predictions'], strict=True)
    )
    assert first['visualization'][0].shape == (64, 3 * 64, 3)


def test_attention_is_a_share_of_each_patch(photos, tmp_path):
    inferencer = AttentionInferencer(
        *made('classification', tmp_path), device='cpu', show_progress=False
    )
    attention = np.array(inferencer(str(photos / '0.png'))['predictions'][0]['attention'])
    assert attention.shape == (2, 8, 8) and (attention >= 0).all()
    assert (attention.sum((1, 2)) < 1).all() and (
        attention.sum((1, 2)) > 0.5
    ).all()  # the rest goes to [S]


def test_what_is_no_image_or_no_such_model_is_an_error_that_says_so(tmp_path, photos):
    inferencer = TokenizerInferencer(
        *made('tokenizer', tmp_path), device='cpu', show_progress=False
    )
    with pytest.raises(TypeError, match='dtype float64: expected uint8'):
        inferencer(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r'shape \(8, 8\): expected \[H, W, 3\]'):
        inferencer(np.zeros((8, 8), np.uint8))
    with pytest.raises(FileNotFoundError, match='none.png not found: expected an image file'):
        inferencer([photos / '0.png', tmp_path / 'none.png'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(
        FileNotFoundError,
        match='empty and its sub-folders have no images: expected files that end with .jpg',
    ):
        inferencer(tmp_path / 'empty')
    with pytest.raises(ValueError, match='the model is a DiscreteVAE: expected a BEiTPretrainer'):
        FillInInferencer(*made('tokenizer', tmp_path), device='cpu')
