"""What is exported computes what the model does, without this project, for any batch."""

import importlib
import importlib.util
import sys
from pathlib import Path

import onnxruntime
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from beit_mm.apis import deploy
from beit_mm.checkpoint.loading import load_model

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
CHOSEN = ['quickstart/tokenizer']
MORE = [
    'quickstart/segmentation',
    'quickstart/classification',
    'quickstart/pretrain',
    'classification/vit-base-p16_8xb128-amp-coslr-100e_in1k',
    'segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512',
    'segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512',
]
EITHER = [
    pytest.param(name, marks=pytest.mark.long) if name in MORE else name for name in CHOSEN + MORE
]
KINDS = dict(
    tokenizer='tokenizer',
    classification='classifier',
    segmentation='segmentor',
    pretrain='backbone',
)

tool_spec = importlib.util.spec_from_file_location('export_tool', ROOT / 'tools/export.py')
tool = importlib.util.module_from_spec(tool_spec)
tool_spec.loader.exec_module(tool)


def made(name: str, folder: Path) -> tuple[Config, Path]:
    """A config at toy size and a checkpoint whose outputs depend on the image."""
    cfg = small.shrink(small.load(name), folder, folder)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    return cfg, folder / 'model.pth'


@pytest.mark.parametrize('name', EITHER)
def test_both_formats_compute_what_the_model_does_for_any_batch(name, tmp_path):
    deployed = deploy.Deployed(load_model(*made(name, tmp_path))).eval()
    assert deployed.kind == next(kind for part, kind in KINDS.items() if part in name)
    size = deploy.size_of(deployed)
    others = [(40, 72)] if deployed.kind == 'tokenizer' else []
    for fmt, suffix in deploy.FORMATS.items():
        path = tmp_path / f'a{suffix}'
        deploy.export(deployed, path, fmt, size)
        for shape in (size, *others):
            assert deploy.difference(deployed, path, fmt, shape) <= 1e-4
    assert sorted(path.name for path in tmp_path.glob('a.*')) == [
        'a.onnx',
        'a.pt2',
    ]  # weights inside
    outputs = onnxruntime.InferenceSession(tmp_path / 'a.onnx').run(
        None, dict(image=deploy.example(5, 3, size).numpy())
    )
    assert [output.shape[0] for output in outputs] == [5] * len(deployed.names)
    assert outputs[-1].std(0).max() > 0.01  # images differ in what comes out


def test_mean_and_std_are_inside(tmp_path):
    model = load_model(*made('quickstart/classification', tmp_path))
    image = deploy.example(2, 3, (64, 64))
    bgr = list(image.flip(1))  # as OpenMMLab reads files
    with torch.no_grad():
        wanted = model(**model.data_preprocessor(dict(inputs=bgr)), mode='tensor')
        torch.testing.assert_close(deploy.Deployed(model)(image)[0], wanted)


def test_a_segmentor_gives_the_logits_of_its_own_whole_image_inference(tmp_path):
    model = load_model(*made('quickstart/segmentation', tmp_path))
    deployed, image = deploy.Deployed(model), deploy.example(2, 3, (64, 64))
    normalised = (image - deployed.mean) / deployed.std
    with torch.no_grad():
        wanted = model.encode_decode(normalised, [dict(img_shape=(64, 64), ori_shape=(64, 64))] * 2)
        torch.testing.assert_close(deployed(image)[0], wanted)


def test_the_tool_writes_a_backbone_at_another_size_and_says_what_it_is(
    tmp_path, capsys, unformatted
):
    cfg, checkpoint = made('quickstart/classification', tmp_path)
    cfg.model.backbone.out_type = 'featmap'
    cfg.dump(tmp_path / 'a.py')
    state = torch.load(checkpoint)['state_dict']
    torch.save(dict(state_dict={k: v for k, v in state.items() if 'fc_norm' not in k}), checkpoint)
    words = [
        tmp_path / 'a.py',
        checkpoint,
        tmp_path / 'a.pt2',
        '--format',
        'torch',
        '--backbone',
        '--size',
        32,
        96,
    ]
    tool.main(list(map(str, words)))
    said = capsys.readouterr().out
    assert 'a backbone, image float32 [B, 3, H, W] RGB 0 … 255 of 32×96 → features' in said
    assert float(said.split('difference=')[1].split()[0]) <= 1e-4
    features = torch.export.load(tmp_path / 'a.pt2').module()(deploy.example(1, 3, (32, 96)))
    assert features[0].shape == (1, 32, 4, 12)


def test_wrong_words_are_errors_that_say_the_mend(tmp_path, capsys, unformatted):
    cfg, checkpoint = made('quickstart/tokenizer', tmp_path)
    cfg.dump(tmp_path / 'a.py')
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path / 'a.py'), str(checkpoint), 'a.pt2'])
    assert 'a file of --format onnx ends with .onnx' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='DiscreteVAE has no backbone: leave --backbone out'):
        tool.main([str(tmp_path / 'a.py'), str(checkpoint), str(tmp_path / 'a.onnx'), '--backbone'])


def test_without_onnx_the_package_works_and_the_tool_says_what_to_install(
    tmp_path, monkeypatch, unformatted
):
    cfg, checkpoint = made('quickstart/tokenizer', tmp_path)
    cfg.dump(tmp_path / 'a.py')
    for name in [*sys.modules]:
        if name.split('.')[0] in ('onnx', 'onnxscript', 'onnxruntime', 'onnx_ir'):
            monkeypatch.delitem(sys.modules, name)
    for name in ('onnx', 'onnxscript', 'onnxruntime', 'onnx_ir'):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    importlib.reload(deploy)
    with pytest.raises(SystemExit, match='pip install onnx onnxscript onnxruntime'):
        tool.main([str(tmp_path / 'a.py'), str(checkpoint), str(tmp_path / 'a.onnx')])
