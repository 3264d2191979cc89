"""Each fix of compat.py works, and the unpatched stack, in a process without beit_mm, has its fault."""

import importlib
import importlib.metadata
import os
import re
from pathlib import Path
from pickle import UnpicklingError

import mmcv
import numpy as np
import pytest
import torch
from local_server import served
from mmengine.logging import HistoryBuffer
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import checkpoint, load_checkpoint
from small import ROOT, run_python

from beit_mm.checkpoint.files import read_file
from beit_mm.utils import packages

STACK = os.environ.get('BEIT_MM_STACK')  # set by tools/test.sh
ONEDL = packages.read_version(mmcv) >= (2, 3)
fixed_by_onedl = pytest.mark.skipif(ONEDL, reason='fixed there')


@pytest.mark.skipif(STACK not in ('onedl', 'openmmlab'), reason='tools/test.sh sets the stack')
def test_every_package_is_the_pinned_one_and_comes_from_its_stack():
    text = (ROOT / f'requirements/{STACK}.txt').read_text()
    pins = re.findall(r'^((?:onedl-)?mm[\w-]+|torch|torchvision)==([\w.]+)$', text, re.M)
    assert len(pins) == 6 and all(importlib.metadata.version(name) == pin for name, pin in pins)
    home = ROOT / ('.overlay/openmmlab' if STACK == 'openmmlab' else '.venv')
    for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmseg'):
        assert home in Path(importlib.import_module(name).__file__).parents


# -- reading checkpoints


@pytest.fixture
def hostile(tmp_path) -> tuple[Path, Path]:
    """Return a checkpoint that runs code when it is unpickled, and the file that the code creates."""
    call = type('Call', (), {'__reduce__': lambda self: (Path.touch, (tmp_path / 'ran',))})
    state = dict(weight=torch.zeros(1, 1))
    torch.save(dict(state_dict=state, meta=call()), tmp_path / 'hostile.pth')
    return tmp_path / 'hostile.pth', tmp_path / 'ran'


@pytest.fixture
def legitimate(tmp_path) -> Path:
    """Return a checkpoint with what mmengine saves: log buffers, NumPy's numbers and arrays."""
    buffer = HistoryBuffer()
    buffer.update(0.5)
    numbers = dict(best=np.float32(0.5), flags=np.array([True]), count=np.int64(3))
    meta = dict(numbers, names=np.array(['a']), buffer=buffer)
    torch.save(dict(state_dict=dict(weight=torch.ones(1, 1)), meta=meta), tmp_path / 'own.pth')
    return tmp_path / 'own.pth'


def test_fault_the_stack_runs_code_of_a_pickle_or_cannot_read_its_own_file(hostile, legitimate):
    code = 'import torch\nfrom mmengine.runner import checkpoint, load_checkpoint\n'
    code += 'load_checkpoint(torch.nn.Linear(1, 1), {!r})'
    if ONEDL:
        run_python(code.format(str(hostile[0])))
        assert hostile[1].exists()
    else:
        error = run_python(code.format(str(legitimate))).stderr
        assert 'UnpicklingError' in error and 'Unsupported global' in error


def test_a_checkpoint_of_mmengine_loads_with_everything_in_it(legitimate):
    meta = load_checkpoint(torch.nn.Linear(1, 1, bias=False), str(legitimate))['meta']
    assert meta['best'] == np.float32(0.5) and meta['names'][0] == 'a'
    assert meta['buffer'].mean() == 0.5


@pytest.mark.parametrize('load', ['load_checkpoint', 'load_from_local', 'load_from_http'])
def test_a_pickle_that_would_run_code_is_refused(load, hostile, tmp_path, monkeypatch):
    """By our reader of files, and by mmengine's own, which `open-mmlab://…` uses."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    with served({'/hostile.pth': hostile[0].read_bytes()}) as (url, _):
        path = f'{url}/hostile.pth' if load == 'load_from_http' else str(hostile[0])
        arguments = [torch.nn.Linear(1, 1), path] if load == 'load_checkpoint' else [path, 'cpu']
        with pytest.raises((ValueError, UnpicklingError), match=r'GLOBAL pathlib\.Path was not'):
            getattr(checkpoint, load)(*arguments)
    assert not hostile[1].exists()


def test_an_array_of_objects_is_no_way_around_the_list(tmp_path):
    call = np.ndarray, ((1,), 'O', b'\1' * 8)
    torch.save(type('Gadget', (), {'__reduce__': lambda self: call})(), tmp_path / 'gadget.pth')
    with pytest.raises(ValueError, match='gadget.pth was not loaded'):
        read_file(tmp_path / 'gadget.pth')


# -- missing ops

without_ops = pytest.mark.skipif(
    ONEDL and not packages.is_installed('mmdet'), reason="onedl's mmseg needs no fix"
)


@fixed_by_onedl
def test_fault_mmseg_cannot_be_imported_without_compiled_ops():
    assert "No module named 'mmcv._ext'" in run_python('import mmseg.models').stderr


@without_ops
def test_a_missing_op_is_an_error_only_when_it_is_called():
    from mmcv.ops import point_sample, soft_nms
    from mmengine.utils.dl_utils import mmcv_full_available

    assert not mmcv_full_available()
    sampled = point_sample(torch.ones(1, 1, 4, 4), torch.full((1, 1, 2), 0.5))
    assert sampled.item() == 1  # plain PyTorch, no op
    with pytest.raises(ImportError, match='compiled op softnms of mmcv was called.*pip install'):
        soft_nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


@without_ops
def test_of_overlapping_boxes_the_best_stays():
    from mmcv.ops import batched_nms, nms

    # The first two overlap by 8/9, with borders by 9/10.
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    for threshold, offset, kept in ((0.85, 0, [1, 2]), (0.895, 0, [1, 2, 0]), (0.895, 1, [1, 2])):
        assert nms(boxes, scores, threshold, offset)[1].tolist() == kept
    how = dict(type='nms', iou_threshold=0.5)
    found, kept = batched_nms(boxes, scores, torch.tensor([0, 1, 0]), how)
    assert kept.tolist() == [1, 2, 0]
    assert torch.equal(found, torch.cat([boxes, scores[:, None]], 1)[kept])


# -- multimodal models

with_transformers_5 = pytest.mark.skipif(
    not packages.is_installed('transformers') or importlib.metadata.version('transformers') < '5',
    reason='needs transformers 5',
)


@pytest.fixture
def pycocotools(tmp_path) -> Path:
    """Return a folder in which pycocotools seems to be installed."""
    (tmp_path / 'pycocotools').mkdir()
    (tmp_path / 'pycocotools/__init__.py').touch()
    (tmp_path / 'pycocotools-2.0.11.dist-info').mkdir()
    metadata = 'Metadata-Version: 2.1\nName: pycocotools\nVersion: 2.0.11\n'
    (tmp_path / 'pycocotools-2.0.11.dist-info/METADATA').write_text(metadata)
    return tmp_path


@with_transformers_5
def test_mmpretrain_can_be_imported_beside_transformers_5_and_pycocotools(pycocotools):
    fault = "NoneType takes no arguments|cannot import name '.*' from 'transformers"
    assert re.search(fault, run_python('import mmpretrain.models', pycocotools).stderr)
    done = run_python('import beit_mm.registry, mmpretrain.models', pycocotools)
    assert done.returncode == 0, done.stderr


# -- class weights

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


@fixed_by_onedl
def test_fault_mmseg_reads_a_class_weight_for_ignored_pixels():
    assert 'IndexError: index 255' in run_python('import beit_mm.registry\n' + WEIGHTED).stderr


def test_class_weights_skip_ignored_pixels():
    exec(WEIGHTED, {})


# -- resume

RESUMED = """
import tempfile, torch
from mmengine.model import BaseModel
from mmengine.hooks import Hook
from mmengine.runner import Runner

class Numbers(list):
    def __getitem__(self, index):
        read.append(index)
        return dict(inputs=torch.ones(1))

class Sampler(list):
    def skip(self, count): self[:] = self[count:]

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.weight * inputs[0])

class Count(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None): called.append(batch_idx)

read, called = [], []
loader = dict(dataset=Numbers(range(5)), sampler=Sampler(range(5)), batch_size=1, num_workers=0)
runner = Runner(Model(), tempfile.mkdtemp(), custom_hooks=[Count()], log_level='ERROR', train_cfg=TRAIN,
    train_dataloader=loader, optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
runner.train_loop._iter = 3  # as resume does
if 'max_epochs' in TRAIN:
    runner.train_dataloader.sampler.skip(3)
    runner.train_loop.first_batch = 3
runner.train()
print('read', read, 'called', called)
"""
EPOCHS = RESUMED.replace('TRAIN', 'dict(by_epoch=True, max_epochs=1)')
ITERATIONS = RESUMED.replace('TRAIN', 'dict(by_epoch=False, max_iters=5)')


def test_fault_a_resumed_epoch_counts_its_batches_from_zero():
    assert 'read [3, 4] called [0, 1]' in run_python(EPOCHS).stdout


@fixed_by_onedl
def test_fault_a_resumed_run_loads_what_it_was_trained_on():
    assert 'read [0, 1, 2, 3, 4] called [3, 4]' in run_python(ITERATIONS).stdout


# -- channels


def test_images_of_any_number_of_channels_are_normalized():
    stock = ImgDataPreprocessor.__init__.__wrapped__
    with pytest.raises(AssertionError, match='1 or 3 values'):
        stock(ImgDataPreprocessor.__new__(ImgDataPreprocessor), mean=[0.0] * 4, std=[2.0] * 4)
    fixed = ImgDataPreprocessor(mean=[0.0, 1.0, 2.0, 3.0], std=[2.0] * 4)
    found = fixed(dict(inputs=[torch.full((4, 2, 2), 3.0)]))['inputs'][0, :, 0, 0]
    assert found.tolist() == [1.5, 1.0, 0.5, 0.0]


# -- messages of imports


def test_fault_imports_print_what_no_user_can_act_on(tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))  # as where nvcc is installed
    code = 'import mmcv.cnn.bricks.transformer, mmpretrain.datasets, torch.utils.cpp_extension'
    fault, fixed = run_python(code), run_python(f'import beit_mm.registry, {code[7:]}')
    assert (fixed.returncode, fixed.stdout) == (0, '')
    for words in ('MultiScaleDeformableAttention', 'No CUDA runtime is found'):
        assert words not in fixed.stderr
        assert words in fault.stderr or (words.startswith('No') and torch.cuda.is_available())
    assert ('Could not import OneDL' in fault.stdout) is ONEDL


# -- warnings of a run

SHORT_RUN = """
import tempfile
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import save_checkpoint
class Metric(BaseMetric):
    def process(self, data_batch, data_samples): pass
    def compute_metrics(self, results): pass
class Run:
    work_dir, logger = tempfile.mkdtemp(), MMLogger.get_instance('short')
CheckpointHook().before_train(Run)
save_checkpoint({}, f'{Run.work_dir}/a.pth', backend_args={})
print(Metric().prefix or 'no prefix')
"""
ADVISED = """
import torch
from mmseg.models.losses import CrossEntropyLoss
CrossEntropyLoss(class_weight=[1.0, 2.0])
loss = CrossEntropyLoss(class_weight=[1.0, 2.0], avg_non_ignore=True)
loss(torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 255]]]), ignore_index=255)
"""


def test_fault_a_run_warns_of_what_no_user_can_act_on():
    fault, fixed = run_python(SHORT_RUN), run_python('import beit_mm.registry\n' + SHORT_RUN)
    assert fixed.returncode == 0 and 'warning' not in (fixed.stdout + fixed.stderr).lower()
    assert 'no prefix' in fixed.stdout, 'metrics keep their names'
    for words in ('FileClient" will be deprecated', 'HardDiskBackend', 'The prefix is not set'):
        assert words in fault.stdout + fault.stderr, words


def test_fault_mmseg_advises_what_fails_beside_class_weights():
    advice = 'set ``avg_non_ignore=True``'
    assert advice not in run_python('import beit_mm.registry\n' + ADVISED).stderr
    if ONEDL:  # without the fixes the other stack cannot import mmseg
        fault = run_python(ADVISED).stderr
        assert advice in fault and 'IndexError' in fault
