"""An exported model computes what the model does, without this project, for any batch size."""

import importlib.util
import sys
from pathlib import Path

import onnxruntime
import pytest
import small
import torch

from beit_mm.apis import deploy
from beit_mm.checkpoint.loading import load_model

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
KINDS = {
    'quickstart/tokenizer': 'tokenizer',
    'quickstart/segmentation': 'segmentor',
    'quickstart/classification': 'classifier',
    'quickstart/pretrain': 'backbone',
    'classification/vit-base-p16_8xb128-amp-coslr-100e_in1k': 'classifier',
    'segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512': 'segmentor',
    'segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512': 'segmentor',
}
CONFIGS = [pytest.param(name, marks=pytest.mark.long) for name in list(KINDS)[1:]]


@pytest.mark.parametrize('name', ['quickstart/tokenizer', *CONFIGS])
def test_both_formats_compute_what_the_model_does_for_any_batch(name, tmp_path):
    deployed = deploy.Deployed(load_model(*small.with_weights(name, tmp_path))).eval()
    assert deployed.kind == KINDS[name]
    sizes = [deploy.image_size(deployed)]
    if deployed.kind == 'tokenizer':
        sizes.append((40, 72))
    for file_format, suffix in deploy.FORMATS.items():
        path = tmp_path / f'a{suffix}'
        deploy.export(deployed, path, file_format, sizes[0])
        for size in sizes:
            assert deploy.largest_difference(deployed, path, file_format, size) <= 1e-4
    assert sorted(path.name for path in tmp_path.glob('a.*')) == ['a.onnx', 'a.pt2']
    images = deploy.random_images(5, 3, sizes[0]).numpy()
    outputs = onnxruntime.InferenceSession(tmp_path / 'a.onnx').run(None, dict(image=images))
    assert [output.shape[0] for output in outputs] == [5] * len(deployed.names)
    assert outputs[-1].std(0).max() > 0.01  # the outputs depend on the image


@torch.no_grad()
@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_normalization_and_inference_are_those_of_the_model(task, tmp_path):
    model = load_model(*small.with_weights(f'quickstart/{task}', tmp_path))
    image = deploy.random_images(2, 3, (64, 64))
    bgr = dict(inputs=list(image.flip(1)))  # as OpenMMLab reads files
    if task == 'classification':
        expected = model(**model.data_preprocessor(bgr), mode='tensor')
    else:
        shapes = [dict(img_shape=(64, 64), ori_shape=(64, 64))] * 2
        expected = model.encode_decode(model.data_preprocessor(bgr)['inputs'], shapes)
    torch.testing.assert_close(deploy.Deployed(model)(image)[0], expected)


def test_the_tool_exports_a_backbone_at_another_size(tool, tmp_path, capsys, unformatted):
    cfg, checkpoint = small.with_weights('quickstart/classification', tmp_path)
    cfg.model.backbone.out_type = 'featmap'
    cfg.dump(tmp_path / 'config.py')
    state = torch.load(checkpoint)['state_dict']
    torch.save(dict(state_dict={k: v for k, v in state.items() if 'fc_norm' not in k}), checkpoint)
    tool('a.pt2', '--format', 'torch', '--backbone', '--size', '32', '96')
    printed = capsys.readouterr().out
    assert 'a backbone, image float32 [B, 3, H, W] RGB 0 … 255 of 32×96 → features' in printed
    assert float(printed.split('difference=')[1].split()[0]) <= 1e-4
    exported = torch.export.load(tmp_path / 'a.pt2').module()
    assert exported(deploy.random_images(1, 3, (32, 96)))[0].shape == (1, 32, 4, 12)


def test_mistakes_say_the_fix(tool, tmp_path, capsys, monkeypatch, unformatted):
    small.with_weights('quickstart/tokenizer', tmp_path)
    with pytest.raises(SystemExit):
        tool('a.onnx', '--format', 'torch')
    assert 'a.onnx: expected a file that ends with .pt2' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='DiscreteVAE has no backbone: remove --backbone'):
        tool('a.onnx', '--backbone')
    monkeypatch.setitem(sys.modules, 'onnxscript', None)  # as if it were not installed
    with pytest.raises(SystemExit, match='onnxscript is not installed: pip install onnx'):
        tool('a.onnx')


@pytest.fixture
def tool(tmp_path):
    """Return a function that runs tools/export.py on the files of `small.with_weights`."""
    spec = importlib.util.spec_from_file_location('export_tool', ROOT / 'tools/export.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = [str(tmp_path / name) for name in ('config.py', 'model.pth')]
    return lambda out, *options: module.main([*files, str(tmp_path / out), *options])
