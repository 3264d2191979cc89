"""The list of users' mistakes: each raises an error that says the place and how to fix it."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from beit_mm import engine
from beit_mm.apis.base_inferencer import Inferencer
from beit_mm.checkpoint import load, load_backbone
from beit_mm.data.blockwise_mask import BlockwiseMask, exact_blockwise_mask
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.engine.find_checkpoint import find_resume_checkpoint
from beit_mm.models import BEiT, BEiTPretrainer, DiscreteVAE, MIMDataPreprocessor
from beit_mm.models.relative_position import resize_bias_table

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
VAE = dict(vocab_size=16, width=4, groups=2, blocks=1, width_in=4)  # stride 2
TOKENS = dict(type='TokenTarget', tokenizer=dict(type='DiscreteVAE', **VAE))


def beit(**kwargs) -> BEiT:
    return BEiT(**dict(arch=ARCH, img_size=32, patch_size=8, mask_token=True) | kwargs)


def read(patch_ids: torch.Tensor) -> torch.Tensor:
    return beit()(torch.zeros(2, 3, 32, 32), None, patch_ids)[0]


def vae() -> DiscreteVAE:
    return DiscreteVAE(**VAE)


def pretrainer(target=TOKENS, **backbone) -> BEiTPretrainer:
    own = dict(type='BEiT', arch=ARCH, img_size=32, patch_size=8, mask_token=True)
    head = dict(type='MIMHead', in_channels=16, out_channels=16)
    return BEiTPretrainer(own | backbone, target, head, num_masked=6)


def batch(hidden: int = 6, ids: int = 4, without: str = '') -> dict[str, torch.Tensor]:
    """Return two images of a 4×4 grid; the ids may have another grid."""
    mask = (torch.arange(16) < hidden).expand(2, 16).reshape(2, 4, 4)
    ids = torch.zeros(2, ids, ids, dtype=torch.int64)
    inputs = dict(patch_view=torch.zeros(2, 3, 32, 32), mask=mask, token_ids=ids)
    inputs.pop(without, None)
    return inputs


def tokenize(*size: int, value: float = 0.5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return vae().tokens(torch.full((1, 3, *size), value, dtype=dtype))


def normalize(patch_view: torch.Tensor, **views: torch.Tensor) -> None:
    MIMDataPreprocessor()(dict(inputs=dict(patch_view=patch_view, **views)))


def load_saved(tmp_path, source: dict, load, model, **more: torch.Tensor) -> None:
    state = beit(**source).state_dict() | more
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), tmp_path / 'a.pth')
    load(model(), str(tmp_path / 'a.pth'))


def resume_among_others(tmp_path) -> None:
    torch.save(dict(meta=dict(iter=2)), tmp_path / 'step-2.ckpt')
    find_resume_checkpoint(tmp_path, tmp_path, 'iter_{}.pth')


def list_images(folder) -> None:
    SeededDataset(dict(type='mmpretrain.CustomDataset', data_root=str(folder), with_label=False))


def build_optimizer(**modules: torch.nn.Module) -> None:
    model = torch.nn.Module()
    for name, module in dict(head=torch.nn.Linear(2, 2), **modules).items():
        model.add_module(name, module)
    wrapper = dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    engine.LayerDecayConstructor(wrapper, dict(layer_decay_rate=0.5))(model)


def evaluate_tokenizer(vocab_size: int = 40, psnr: float = 20.0) -> None:
    """Evaluate a tokenizer that uses four codes; the mean color has 15 dB."""
    values = dict(psnr=psnr, psnr_mean_color=15.0, log_likelihood=0.0, kl=0.0)
    sample = dict(ids=torch.arange(4), reconstruction=torch.zeros(3, 4, 4))
    metric = engine.TokenizerMetric(vocab_size)
    metric.process({}, [sample | {name: torch.tensor(value) for name, value in values.items()}])
    metric.compute_metrics(metric.results)


# mistake: call, message, error if it is no ValueError
MISTAKES = {
    # images and grids
    'image no multiple of the patch': (lambda _: beit()(torch.zeros(1, 3, 36, 32)),
        r'images of shape \(1, 3, 36, 32\): expected .* multiples of patch_size=8\. .*pad_size_divisor=8'),
    'img_size no multiple of the patch': (lambda _: beit(img_size=(32, 30)),
        r'images of shape \(32, 30\): expected .* multiples of patch_size=8'),
    'one image without a batch': (lambda _: beit()(torch.zeros(3, 32, 32)),
        r'images of shape \(3, 32, 32\): expected \[B, C, H, W\] .*Pass image\[None\] for one image'),
    'patch_ids of another batch': (lambda _: read(torch.zeros(1, 3, dtype=torch.int64)),
        r'patch_ids is torch\.int64 of shape \(1, 3\): expected torch\.int64 of shape \(2, any\)'),
    'patch_ids before the first patch': (lambda _: read(torch.tensor([[-1, 0]] * 2)), r'patch_ids are -1 … 0: expected 0 … 15'),
    'mask of another grid': (lambda _: beit()(torch.zeros(2, 3, 32, 32), torch.zeros(2, 5, 5).bool()),
        r'mask is torch\.bool of shape \(2, 5, 5\): expected torch\.bool of shape \(2, 4, 4\)'),
    'mask for a backbone without mask token': (lambda _: beit(mask_token=False)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 4, 4).bool()),
        r'set mask_token=True'),
    'token grid ≠ patch grid': (lambda _: pretrainer().loss(batch(ids=5)),
        r'the token grid is \(5, 5\), expected the patch grid \(4, 4\): set TwoViews\.token_size'),
    'token view no multiple of the stride': (lambda _: tokenize(9, 8),
        r'images of shape \(1, 3, 9, 8\): expected .* multiples of stride=2'),
    'a table of another grid': (lambda _: resize_bias_table(torch.zeros(52, 2), (4, 5), (6, 6)),
        r'the bias table has 52 rows, expected 66 for the grid \(4, 5\)'),
    # masks
    'num_masked larger than the grid': (lambda _: BlockwiseMask(grid=4, num_masked=17, min_block=1),
        r'num_masked=17: grid=\(4, 4\) has 16 patches. Set 1 … 16'),
    'num_masked smaller than a block': (lambda _: BlockwiseMask(num_masked=10),
        r'num_masked=10 is smaller than min_block=16: lower min_block'),
    'grid without a smaller block': (lambda _: BlockwiseMask(grid=(1, 40), num_masked=20), r'one row or column, .*RandomMask'),
    'exact mask that cannot be': (lambda _: exact_blockwise_mask(np.random.default_rng(0), (4, 4), 16, 16),
        r'no mask of exactly 16 of 4×4 .*change num_masked, lower min_block, or set exact=False'),
    'mask that hides more than num_masked of the model': (lambda _: pretrainer().loss(batch(hidden=7)),
        r'a mask has 7 patches, the model reads num_masked=6: set the same num_masked'),
    # targets and tokenizers
    'pre-training without a tokenizer': (lambda _: pretrainer().init_weights(),
        r'need a trained tokenizer, and none was given\. Train one with `python tools/train\.py ', FileNotFoundError),
    'tokenizer file that was not found': (lambda _: pretrainer(target=TOKENS | dict(checkpoint='work_dirs/gone.pth')).init_weights(),
        r'no checkpoint at work_dirs/gone\.pth. Expected the \.pth file that an earlier stage wrote', FileNotFoundError),
    'neither token view nor ids': (lambda _: pretrainer().loss(batch(without='token_ids')),
        r'neither a token_view nor cached token_ids: set TwoViews\.token_size'),
    # pixels
    'pixels of 0 … 255': (lambda _: tokenize(8, 8, value=255.0), r'images are torch\.float32, 255 … 255: expected float in \[0, 1\]'),
    'pixels that are no numbers': (lambda _: tokenize(8, 8, value=float('nan')), r'nan … nan: expected'),
    'patch view of floats': (lambda _: normalize(torch.zeros(1, 3, 8, 8)), r'patch_view is torch\.float32 .*expected torch\.uint8'),
    'token view of floats': (lambda _: normalize(torch.zeros(1, 3, 8, 8).byte(), token_view=torch.zeros(1, 3, 4, 4)),
        r'token_view is torch\.float32 .*expected torch\.uint8'),
    'pixels as bytes': (lambda _: tokenize(8, 8, value=1, dtype=torch.uint8),
        r'images are torch\.uint8, 1 … 1: expected float in \[0, 1\]; divide pixels by 255'),
    # names and numbers of the backbone
    'unknown arch key': (lambda _: beit(arch=ARCH | dict(depth=3)), r"arch=.*'depth'.* expected .* exactly embed_dims"),
    'out_indices beyond the last block': (lambda _: beit(out_indices=(0, 2)),
        r'out_indices=\(0, 2\): expected rising block numbers, -2 … 1'),
    'features of another type in pre-training': (lambda _: pretrainer(out_type='featmap').loss(batch()),
        r"patch_ids need a backbone with out_type='raw'"),
    'unknown init_cfg': (lambda _: beit(init_cfg=dict(type='Xavier')).init_weights(),
        r"BEiT expected dict\(type='Pretrained', checkpoint=…\) or None"),
    'unknown mode': (lambda _: pretrainer()(batch(), mode='train'), r"mode='train': expected one of loss, predict, tensor"),
    # checkpoints
    'checkpoint of another arch': (partial(load_saved, source=dict(arch=ARCH | dict(num_layers=3)), load=load_backbone, model=beit),
        r'a\.pth does not fit this BEiT\. .*unexpected: blocks\.2\..*settings of its training: arch, positions'),
    'checkpoint of other channels': (partial(load_saved, source={}, load=load_backbone, model=partial(beit, in_channels=4)),
        r"weight: \(16, 3, 8, 8\) ≠ \(16, 4, 8, 8\).*checkpoint='.*a\.pth', adapt_patch_embed=True\)"),
    'checkpoint of a backbone with an adapter': (
        lambda tmp_path: load_saved(tmp_path, {}, load_backbone, beit, spm=torch.zeros(1), interactions=torch.zeros(1)),
        r'An adapter adds interactions, spm.*`python tools/convert\.py .*a\.pth .* --backbone`'),
    'folder of a run whose checkpoint is gone': (
        lambda tmp_path: ((tmp_path / 'last_checkpoint').write_text('/old/iter_8.pth'), load(str(tmp_path))),
        r'last_checkpoint names /old/iter_8\.pth, which was not found, nor was iter_8\.pth beside it. Pass', FileNotFoundError),
    'average that a checkpoint does not hold': (lambda tmp_path: load_saved(tmp_path, {}, lambda model, path: load(f'{path}#ema'), beit),
        r'a\.pth#ema: the file holds no averaged weights \(model_ema, .*Remove #ema'),
    # tools
    'folder without images for an inferencer': (lambda tmp_path: Inferencer._inputs_to_list(None, tmp_path),
        r'and its sub-folders have no images: expected files that end with \.jpg', FileNotFoundError),
    'masks that hide nothing in validation': (lambda _: engine.MIMMetric().evaluate(0),
        r'no patch is masked in any image, .*: add a mask to the pipeline of val_dataloader'),
    'layer decay of a backbone without layers': (lambda _: build_optimizer(backbone=torch.nn.Linear(2, 2)),
        r'the backbone of Module, Linear, has no get_layer_depth: use beit_mm\.BEiT', TypeError),
    'resume where only other names are': (resume_among_others,
        r'holds checkpoints \(step-2\.ckpt\), but none has a name of filename_tmpl=.*--resume PATH'),
    # data
    'empty folder of images': (list_images,
        r"no images were found in \{'data_root': '.*'\}: check these paths"),
}  # fmt: skip


WARNINGS = {
    'a tokenizer that uses few codes': (lambda: evaluate_tokenizer(vocab_size=41),
        r'^the codebook collapses: 4 of 41 codes are used\. Try '),
    'a tokenizer that is no better than the mean color': (lambda: evaluate_tokenizer(psnr=15.0),
        r'^the tokens carry no information .*: PSNR is 15\.0 dB, .* image has 15\.0 dB\. Train longer'),
    'layer decay of a model without a backbone': (build_optimizer,
        r'^Module has no backbone: all parameters get the learning rate of the head'),
}  # fmt: skip


@pytest.mark.parametrize('mistake', WARNINGS)
def test_a_risk_is_a_warning(mistake, log):
    make, message = WARNINGS[mistake]
    make()
    (said,) = [record.getMessage() for record in log.records if record.levelname == 'WARNING']
    assert re.search(message, said)


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_an_error_that_says_how_to_fix_it(mistake, tmp_path):
    make, message, *error = MISTAKES[mistake]
    with pytest.raises(Exception, match=message) as raised:
        make(tmp_path)
    assert raised.type is (error[0] if error else ValueError)
