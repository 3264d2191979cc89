"""Each entry of compat.py answers a fault that the stock stack still has, shown in processes without beit_mm."""

import http.server
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import mmcv
import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import Runner, load_checkpoint

from beit_mm import compat
from beit_mm.checkpoint.files import read_file

ROOT = Path(__file__).parents[1]
STACK = os.environ.get('BEIT_MM_STACK')  # set by tools/test.sh
ONEDL = compat._version(mmcv) >= (2, 3)


def python(code: str, *paths: object) -> subprocess.CompletedProcess:
    """Runs code in a process of its own on this stack, with `paths` in front of everything else."""
    path = os.pathsep.join([*map(str, paths), os.environ.get('PYTHONPATH', ''), str(ROOT)])
    return subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | dict(PYTHONPATH=path),
        text=True,
        capture_output=True,
    )


@pytest.mark.skipif(
    STACK not in ('onedl', 'openmmlab'), reason='tools/test.sh says which stack is meant'
)
def test_every_package_is_the_pinned_one_and_comes_from_its_stack():
    pins = dict(
        re.findall(r'^([\w-]+)==([\w.]+)$', (ROOT / f'requirements/{STACK}.txt').read_text(), re.M)
    )
    home = ROOT / ('.overlay/openmmlab' if STACK == 'openmmlab' else '.venv')
    names = dict(
        mmengine='mmengine', mmcv='mmcv-lite', mmpretrain='mmpretrain', mmseg='mmsegmentation'
    )
    if STACK == 'onedl':
        names = {name: 'onedl-' + package.removesuffix('-lite') for name, package in names.items()}
    for name, package in names.items():
        module = importlib.import_module(name)
        assert home in Path(module.__file__).parents, f'{name} comes from {module.__file__}'
        assert module.__version__ == pins[package]
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in names and getattr(module, '__file__', None):
            assert home in Path(module.__file__).parents, f'{name} comes from {module.__file__}'
    assert (
        importlib.metadata.version('torch') == pins['torch']
        and importlib.metadata.version('torchvision') == pins['torchvision']
    )


# --- reading checkpoints ---


class Hostile:
    """Makes a file when it is unpickled, as any pickle may."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def hostile(tmp_path) -> tuple[Path, Path]:
    """(checkpoint that runs code when it is unpickled, the file by which one sees that it ran)."""
    torch.save(
        dict(state_dict=dict(weight=torch.zeros(1, 1)), meta=Hostile(tmp_path / 'ran')),
        tmp_path / 'hostile.pth',
    )
    return tmp_path / 'hostile.pth', tmp_path / 'ran'


@pytest.fixture
def legitimate(tmp_path) -> Path:
    """What mmengine itself writes beside weights: log buffers, NumPy's numbers and arrays."""
    buffer = HistoryBuffer()
    buffer.update(0.5)
    meta = dict(
        best=np.float32(0.5),
        flags=np.array([True]),
        names=np.array(['a']),
        buffer=buffer,
        count=np.int64(3),
    )
    torch.save(dict(state_dict=dict(weight=torch.ones(1, 1)), meta=meta), tmp_path / 'own.pth')
    return tmp_path / 'own.pth'


def test_fault_the_stock_stack_runs_a_pickle_or_cannot_read_its_own_file(hostile, legitimate):
    code = 'from mmengine.runner import load_checkpoint; import torch; load_checkpoint(torch.nn.Linear(1, 1), {!r})'
    if ONEDL:
        python(code.format(str(hostile[0])))
        assert hostile[1].exists()
    else:
        error = python(code.format(str(legitimate))).stderr
        assert 'UnpicklingError' in error and 'Unsupported global' in error


def test_own_files_load_with_everything_in_them(legitimate):
    meta = load_checkpoint(torch.nn.Linear(1, 1, bias=False), str(legitimate))['meta']
    assert (
        meta['best'] == np.float32(0.5) and meta['names'][0] == 'a' and meta['buffer'].mean() == 0.5
    )


def load_as_function(path: str, model: torch.nn.Module, work_dir: Path) -> None:
    load_checkpoint(model, path)


def load_as_runner(path: str, model: torch.nn.Module, work_dir: Path, **how: object) -> None:
    runner = Runner(
        model, str(work_dir), load_from=path, experiment_name=work_dir.name + str(len(how)), **how
    )
    runner.load_or_resume()


def load_as_init_cfg(path: str, model: torch.nn.Module, work_dir: Path) -> None:
    from mmengine.model import BaseModule

    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


@pytest.mark.parametrize(
    'load',
    [load_as_function, load_as_runner, partial(load_as_runner, resume=True), load_as_init_cfg],
)
def test_a_pickle_that_would_run_code_is_refused_by_name_whatever_way_it_comes(
    hostile, tmp_path, load
):
    with pytest.raises(
        ValueError,
        match=r'hostile.pth was not loaded.* GLOBAL pathlib.Path was not an allowed global',
    ):
        load(str(hostile[0]), torch.nn.Linear(1, 1, bias=False), tmp_path / 'work')
    assert not hostile[1].exists()


@pytest.mark.parametrize(
    'call',
    [
        (np.ndarray, ((1,), 'O', b'\1' * 8)),
        (getattr, (torch.Tensor, 'numpy')),
        (os.system, ('true',)),
    ],
)
def test_no_listed_type_is_a_way_around_the_list(tmp_path, call):
    torch.save(type('Gadget', (), {'__reduce__': lambda self: call})(), tmp_path / 'gadget.pth')
    with pytest.raises(ValueError, match='gadget.pth was not loaded'):
        read_file(tmp_path / 'gadget.pth')


def test_a_pickle_from_the_network_is_refused_too(hostile, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ValueError, match='hostile.pth was not loaded'):
            load_checkpoint(
                torch.nn.Linear(1, 1), f'http://127.0.0.1:{server.server_port}/hostile.pth'
            )
        server.shutdown()
    assert not hostile[1].exists()


def test_a_broken_file_is_named(tmp_path, legitimate):
    (tmp_path / 'cut.pth').write_bytes(legitimate.read_bytes()[:200])
    with pytest.raises(ValueError, match='cut.pth could not be read'):
        read_file(tmp_path / 'cut.pth')
    (tmp_path / 'page.pth').write_text('<html>not found</html>')
    with pytest.raises(ValueError, match='page.pth was not loaded'):
        read_file(tmp_path / 'page.pth')
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        read_file(tmp_path / 'nowhere.pth')


# --- missing ops ---


@pytest.mark.skipif(ONEDL, reason='its mmseg guards the import')
def test_fault_mmseg_cannot_be_imported_without_compiled_ops():
    assert "No module named 'mmcv._ext'" in python('import mmseg.models').stderr


@pytest.mark.skipif(ONEDL and not compat.installed('mmdet'), reason='its mmseg guards the import')
def test_a_missing_op_speaks_up_when_it_is_called_and_only_then():
    from mmcv.ops import point_sample, soft_nms
    from mmengine.utils.dl_utils import mmcv_full_available

    assert not mmcv_full_available()
    assert (
        point_sample(torch.ones(1, 1, 4, 4), torch.full((1, 1, 2), 0.5)).item() == 1
    )  # plain PyTorch, no op
    with pytest.raises(ImportError, match='compiled op softnms of mmcv was called.*pip install'):
        soft_nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


@pytest.mark.skipif(ONEDL and not compat.installed('mmdet'), reason='its mmseg guards the import')
def test_of_boxes_that_overlap_more_than_the_threshold_the_best_stays():
    from mmcv.ops import batched_nms, nms

    boxes = torch.tensor(
        [[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]]
    )  # the first two: 8/9, counting borders 9/10
    scores = torch.tensor([0.5, 0.9, 0.7])
    for threshold, offset, kept in ((0.85, 0, [1, 2]), (0.895, 0, [1, 2, 0]), (0.895, 1, [1, 2])):
        assert nms(boxes, scores, threshold, offset)[1].tolist() == kept
    found, kept = batched_nms(
        boxes, scores, torch.tensor([0, 1, 0]), dict(type='nms', iou_threshold=0.5)
    )
    assert kept.tolist() == [1, 2, 0] and torch.equal(
        found, torch.cat([boxes, scores[:, None]], 1)[kept]
    )


# --- multimodal models ---


beside_transformers_5 = pytest.mark.skipif(
    not compat.installed('transformers') or importlib.metadata.version('transformers') < '5',
    reason='needs transformers 5',
)


@pytest.fixture
def pycocotools(tmp_path) -> Path:
    """A folder in which pycocotools seems to be installed."""
    (tmp_path / 'pycocotools').mkdir()
    (tmp_path / 'pycocotools/__init__.py').touch()
    (tmp_path / 'pycocotools-2.0.11.dist-info').mkdir()
    metadata = 'Metadata-Version: 2.1\nName: pycocotools\nVersion: 2.0.11\n'
    (tmp_path / 'pycocotools-2.0.11.dist-info/METADATA').write_text(metadata)
    return tmp_path


@beside_transformers_5
def test_fault_mmpretrain_cannot_be_imported_beside_transformers_5_and_pycocotools(pycocotools):
    error = python('import mmpretrain.models', pycocotools).stderr
    assert re.search(
        "NoneType takes no arguments|cannot import name '.*' from 'transformers", error
    ), error


@beside_transformers_5
def test_mmpretrain_leaves_its_multimodal_models_out_beside_transformers_5(pycocotools):
    done = python('import beit_mm.registry, mmpretrain.models', pycocotools)
    assert done.returncode == 0, done.stderr


# --- class weights beside ignored pixels ---

WEIGHTED = """
import torch
from mmseg.models.losses import CrossEntropyLoss
loss = CrossEntropyLoss(class_weight=[0.25, 1.0])
logits, labels = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.randint(2, (1, 4, 4))
labels[0, 0] = 255
ours = loss(logits, labels, ignore_index=255)
torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(
    logits, labels, torch.tensor([0.25, 1.0], dtype=torch.float64), ignore_index=255))
"""


@pytest.mark.skipif(ONEDL, reason='mended there')
def test_fault_mmseg_looks_up_a_class_weight_for_ignored_pixels():
    assert 'IndexError: index 255' in python('import beit_mm.registry\n' + WEIGHTED).stderr


def test_class_weights_pass_over_ignored_pixels():
    exec(WEIGHTED, {})


# --- resume ---

RESUMED = """
import tempfile, torch
from mmengine.model import BaseModel
from mmengine.hooks import Hook
from mmengine.runner import Runner

class Numbers(list):
    def __getitem__(self, index):
        read.append(index)
        return dict(inputs=torch.ones(1))

class Sampler:
    start = 0
    def skip(self, count): self.start = count
    def __iter__(self): return iter(range(self.start, 5))
    def __len__(self): return 5

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.weight * inputs[0])

class Count(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None): called.append(batch_idx)

read, called = [], []
runner = Runner(Model(), tempfile.mkdtemp(), custom_hooks=[Count()], log_level='ERROR', train_cfg=TRAIN,
    train_dataloader=dict(dataset=Numbers(range(5)), sampler=Sampler(), batch_size=1, num_workers=0),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
runner.train_loop._iter = 3  # as resume does
if isinstance(TRAIN.get('max_epochs'), int):
    runner.train_dataloader.sampler.skip(3)
    runner.train_loop.first_batch = 3
runner.train()
print('read', read, 'called', called)
"""
EPOCHS, ITERATIONS = (
    RESUMED.replace('TRAIN', f'dict(by_epoch={epochs}, max_{"epochs=1" if epochs else "iters=5"})')
    for epochs in (True, False)
)


def test_fault_a_resumed_epoch_counts_its_batches_from_zero():
    assert 'read [3, 4] called [0, 1]' in python(EPOCHS).stdout


@pytest.mark.skipif(ONEDL, reason='mended there')
def test_fault_a_resumed_run_loads_what_it_was_trained_on():
    assert 'read [0, 1, 2, 3, 4] called [3, 4]' in python(ITERATIONS).stdout


@pytest.mark.parametrize('code', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations'])
def test_a_resumed_run_loads_and_counts_from_its_place(code, capsys):
    exec(code, {})
    assert 'read [3, 4] called [3, 4]' in capsys.readouterr().out


# --- what is needed, and what is not ---


def test_importing_the_package_is_light():
    code = 'import sys, beit_mm.compat; print({"torch", "mmengine", "mmcv", "numpy"} & set(sys.modules))'
    assert python(code).stdout == 'set()\n'


def test_a_missing_package_is_an_import_error_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    assert not compat.installed('mmseg')
    with pytest.raises(
        ImportError, match=r'mmseg is not installed(.|\n)*pip install -U onedl-mmsegmentation'
    ):
        compat.require('torch', 'mmseg')


def test_an_old_package_is_an_import_error_with_the_pip_command(monkeypatch):
    monkeypatch.setattr(mmengine, '__version__', '0.7.4')
    with pytest.raises(
        ImportError, match=r'mmengine is 0.7.4, in .*mmengine(.|\n)*pip install -U onedl-mmengine'
    ):
        compat.require('mmengine')


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        (
            "assert False, 'MMCV==2.2.0 is used but incompatible.'",
            r'mmseg refuses what is installed: MMCV==2.2.0',
        ),
        (
            'import ftfy_is_not_here',
            r'mmseg needs ftfy_is_not_here, which is missing: pip install ftfy_is_not_here',
        ),
    ],
)
def test_a_host_that_cannot_be_imported_says_why(tmp_path, monkeypatch, source, words):
    (tmp_path / 'mmseg.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'mmseg', raising=False)
    with pytest.raises(ImportError, match=words):
        compat.require('mmseg')


def test_the_registry_does_not_swallow_the_message():
    code = (
        'from beit_mm import compat; compat._NEEDED["torch"] = ((99, 0), compat._NEEDED["torch"][1]); '
        'from mmengine.registry import MODELS; MODELS.build(dict(type="beit_mm.BEiT"))'
    )
    assert (
        'ImportError: torch is 2.' in (done := python(code)).stderr
        and 'pip install -U torch' in done.stderr
    )


@pytest.mark.parametrize('host', ['mmpretrain', 'mmseg'])
def test_who_needs_one_host_only_needs_not_the_other(host):
    other = {'mmpretrain': 'mmseg', 'mmseg': 'mmpretrain'}[host]
    code = (
        f'import sys; sys.modules[{other!r}] = None; import beit_mm.registry\n'
        f'from {host}.registry import MODELS\n'
        'arch = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)\n'
        'print(type(MODELS.build(dict(type="beit_mm.BEiT", arch=arch, img_size=32))).__name__)\n'
        'from beit_mm.models import SETRPUPHead'
    )
    done = python(code)
    assert done.stdout == 'BEiT\n', done.stderr
    assert (done.returncode == 0) == (host == 'mmseg')
    if host == 'mmpretrain':
        assert 'ImportError: mmseg is not installed' in done.stderr and 'pip install' in done.stderr


# --- the stacks as a whole ---

VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8),
    img_size=16,
    patch_size=8,
)
CLASSIFIER = dict(
    default_scope='mmpretrain',
    model=dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[127.0] * 3, std=[50.0] * 3),
        backbone=VIT,
        head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=8),
    ),
    val_evaluator=dict(type='Accuracy', topk=1),
)
SEGMENTOR = dict(
    default_scope='mmseg',
    model=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[127.0] * 3, std=[50.0] * 3, size=(16, 16)
        ),
        backbone=VIT | dict(out_type='featmap'),
        decode_head=dict(
            type='FCNHead',
            in_channels=8,
            channels=8,
            in_index=0,
            num_convs=0,
            concat_input=False,
            num_classes=3,
        ),
        test_cfg=dict(mode='whole'),
    ),
    val_evaluator=dict(type='IoUMetric'),
)


def samples(task: dict) -> list[dict]:
    """Four noise images of 16 px with a class, or a label map."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    if task is CLASSIFIER:
        from mmpretrain.structures import DataSample

        return [
            dict(inputs=x, data_samples=DataSample().set_gt_label(i % 2))
            for i, x in enumerate(inputs)
        ]
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    maps = torch.randint(0, 3, (4, 1, 16, 16), generator=generator)
    sizes = dict(img_shape=(16, 16), ori_shape=(16, 16), pad_shape=(16, 16))
    data = [SegDataSample(gt_sem_seg=PixelData(data=m), metainfo=sizes) for m in maps]
    return [dict(inputs=x, data_samples=sample) for x, sample in zip(inputs, data, strict=True)]


def test_mmengine_still_refuses_to_normalize_other_numbers_of_channels():
    stock = ImgDataPreprocessor.__init__.__wrapped__
    with pytest.raises(AssertionError, match='1 or 3 values'):
        stock(ImgDataPreprocessor.__new__(ImgDataPreprocessor), mean=[0.0] * 4, std=[2.0] * 4)
    fixed = ImgDataPreprocessor(mean=[0.0, 1.0, 2.0, 3.0], std=[2.0] * 4)
    found = fixed(dict(inputs=[torch.full((4, 2, 2), 3.0)]))['inputs'][0, :, 0, 0]
    assert found.tolist() == [1.5, 1.0, 0.5, 0.0]


class Samples(torch.utils.data.Dataset):
    """`samples` as a data set that knows its classes, as mmseg's metrics and checkpoints want."""

    def __init__(self, task: dict):
        self.samples, self.metainfo = samples(task), dict(classes=('a', 'b', 'c'))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return self.samples[index]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('task', [CLASSIFIER, SEGMENTOR], ids=['classification', 'segmentation'])
def test_a_host_trains_validates_keeps_the_best_and_resumes(task, tmp_path):
    best = dict(mmpretrain='accuracy/top1', mmseg='mIoU')[task['default_scope']]
    for epochs in (1, 2):
        loader = dict(
            batch_size=2,
            num_workers=0,
            dataset=Samples(task),
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        runner = Runner(
            **ConfigDict(task),
            work_dir=str(tmp_path),
            train_dataloader=loader,
            val_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best=best)),
            resume=epochs == 2,
            experiment_name=f'{task["default_scope"]}-{epochs}',
        )
        runner.train()
    assert runner.iter == 4 and list(tmp_path.glob('best_*.pth'))
