"""Fixes that the two OpenMMLab stacks need on current PyTorch; nothing else here patches a library.

The stacks are OneDL's maintained builds (onedl-mmengine, …) and OpenMMLab's last releases
(mmengine 0.10.7, …), with the same import names. `apply` calls one function per fault, which its
docstring names; a test shows that the unpatched stack has the fault. Importing this module imports
neither torch nor OpenMMLab.
"""

import functools
import importlib
import logging
import pickle
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, repeat
from types import ModuleType
from typing import Any

from .utils.packages import is_installed, read_version, require


@functools.cache
def apply() -> None:
    """Patch the stack in place, once; do nothing if PyTorch or mmengine is missing or too old."""
    try:
        require('torch', 'mmengine')
    except ImportError:
        return
    _load_weights_only()
    _import_mmcv_without_ops()
    _disable_multimodal_models()
    _count_batches_inside_an_epoch()
    _skip_without_loading()
    _normalize_any_number_of_channels()
    _keep_names_of_metrics()
    _build_no_deprecated_client()
    _hide_messages()


def _load_weights_only() -> None:
    """Read every checkpoint with `torch.load(weights_only=True)`, which runs no code of a pickle.

    mmengine 0.10.7 cannot resume its own checkpoints that way, since HistoryBuffer and NumPy's
    scalars are not allowed. onedl-mmengine falls back to weights_only=False.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import checkpoint

    def refuse(*args: Any) -> None:
        raise pickle.UnpicklingError(f'WeightsUnpickler error: Unsupported call with {args}')

    def get_statistic(owner: type, name: str) -> Any:
        known = ('min', 'max', 'mean', 'current')
        return getattr(owner, name) if owner is HistoryBuffer and name in known else refuse(name)

    def empty_array(kind: Any, shape: tuple, code: bytes) -> np.ndarray:
        return np.zeros(0)  # the pickle sets its contents next

    scalar = np.float32(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdgFDUS'}  # all but objects
    allowed = [HistoryBuffer, (get_statistic, 'builtins.getattr'), np.dtype, *dtypes]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # NumPy 1 and 2
        allowed += [(empty_array, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    # A pickle may name np.ndarray, but not call it: of objects, its bytes would be addresses. To
    # set the contents of an array the class has to be allowed, under a name that no pickle has.
    allowed += [(refuse, 'numpy.ndarray'), (np.ndarray, 'numpy.ndarray\n')]
    torch.serialization.add_safe_globals(allowed)

    checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)  # http(s)
    if hasattr(checkpoint, '_safe_torch_load'):  # onedl: the other schemes
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)


def _import_mmcv_without_ops() -> None:
    """Make mmcv.ops importable without compiled ops, since mmseg 1.2.2 and mmdet import it.

    A missing op raises ImportError when it is called. Box suppression, which every detector needs
    to predict, is torchvision's.
    """
    if not is_installed('mmcv') or find_spec('mmcv._ext'):
        return
    import mmcv

    onedl = read_version(mmcv) >= (2, 3)
    if not is_installed('mmdet') and (not is_installed('mmseg') or onedl):
        return  # onedl's mmseg works without the ops
    source = f'{"onedl-" if onedl else ""}mmcv=={mmcv.__version__}'

    class NoOps(ModuleType):
        @staticmethod
        def nms(bboxes: Any, scores: Any, iou_threshold: float, offset: int) -> Any:
            from torchvision.ops import nms

            return nms(bboxes + bboxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold)

        def __getattr__(self, name: str) -> Any:
            def op(*args: Any, **kwargs: Any) -> None:
                raise ImportError(
                    f'the compiled op {name} of mmcv was called, but mmcv {mmcv.__version__} has '
                    'none. Build it: MMCV_WITH_OPS=1 pip install --no-build-isolation '
                    f'--no-binary :all: --no-deps {source}'
                )

            return op

    sys.modules['mmcv._ext'] = NoOps('mmcv._ext')
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules['mmcv._ext']  # mmengine's mmcv_full_available() stays False


def _disable_multimodal_models() -> None:
    """Make mmpretrain.models importable if transformers 5 and pycocotools are installed.

    mmpretrain then builds its multimodal models from names that transformers 5 no longer has.
    """
    if not all(map(is_installed, ('mmpretrain', 'pycocotools', 'transformers'))):
        return
    if int(version('transformers').split('.')[0]) >= 5:
        from mmpretrain.utils import dependency

        dependency.WITH_MULTIMODAL = False


def _count_batches_inside_an_epoch() -> None:
    """Count the batches of a resumed epoch from `loop.first_batch`, which ExactResume sets.

    Both stacks count them from 0, so that hooks log and end the epoch in wrong iterations.
    """
    from mmengine.runner import EpochBasedTrainLoop

    stock = EpochBasedTrainLoop.run_iter

    def run_iter(loop: Any, idx: int, data_batch: Any) -> None:
        stock(loop, loop.first_batch + idx, data_batch)

    EpochBasedTrainLoop.first_batch, EpochBasedTrainLoop.run_iter = 0, run_iter


def _skip_without_loading() -> None:
    """Resume an iteration-based run at its position in the sampler.

    mmengine 0.10.7 loads every batch that was trained on, and starts its workers before it resumes.
    """
    from mmengine.runner import loops

    stock, run = loops._InfiniteDataloaderIterator, loops.IterBasedTrainLoop.run
    if hasattr(stock, 'skip_iter'):  # onedl
        return

    class LazyIterator(stock):
        def __init__(self, dataloader: Any):
            self._dataloader, self._epoch = dataloader, 0

        @functools.cached_property
        def _iterator(self) -> Any:
            return iter(self._dataloader)

    def run_from_position(loop: Any) -> Any:
        loader = loop.dataloader
        if loop._iter and loader.batch_size and hasattr(loader.sampler, 'skip'):
            loader.sampler.skip(loop._iter * loader.batch_size)
            loop.dataloader_iterator = chain(repeat(None, loop._iter), loop.dataloader_iterator)
        return run(loop)

    loops._InfiniteDataloaderIterator = LazyIterator
    loops.IterBasedTrainLoop.run = run_from_position


def _normalize_any_number_of_channels() -> None:
    """Accept a `mean` and `std` per channel in ImgDataPreprocessor, for any number of channels.

    mmengine accepts 1 or 3 values only.
    """
    import torch
    from mmengine.model import ImgDataPreprocessor

    stock = ImgDataPreprocessor.__init__

    @functools.wraps(stock)
    def init(self: Any, mean: Any = None, std: Any = None, *args: Any, **kwargs: Any) -> None:
        if mean is None or std is None or len(mean) != len(std) or len(mean) in (1, 3):
            stock(self, mean, std, *args, **kwargs)
            return
        stock(self, mean[:1], std[:1], *args, **kwargs)
        for name, values in dict(mean=mean, std=std).items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), False)

    ImgDataPreprocessor.__init__ = init


def fix_class_weights() -> None:
    """Fix class weights beside ignored pixels in mmseg 1.2.2; call it where mmseg is imported.

    mmseg reads a class weight for every label before it ignores some: an IndexError for label 255,
    on a GPU an assertion that ends the process.
    """
    import mmseg
    from mmseg.models.losses import cross_entropy_loss

    stock = cross_entropy_loss.cross_entropy
    if read_version(mmseg) >= (1, 3) or isinstance(stock, functools.partial):
        return

    def cross_entropy(
        stock,
        pred,
        label,
        weight=None,
        class_weight=None,
        reduction='mean',
        avg_factor=None,
        **kwargs,
    ):
        if class_weight is not None and avg_factor is None and reduction == 'mean':
            avg_factor = class_weight[label[label != kwargs.get('ignore_index', -100)]].sum()
        return stock(pred, label, weight, class_weight, reduction, avg_factor, **kwargs)

    cross_entropy_loss.cross_entropy = functools.partial(cross_entropy, stock)


def _keep_names_of_metrics() -> None:
    """Accept metrics without a prefix, such as mmseg's IoUMetric, without a warning.

    mmengine warns about them; the names of their values stay what they are.
    """
    from mmengine.evaluator import BaseMetric

    BaseMetric.default_prefix = ''


def _build_no_deprecated_client() -> None:
    """Build a FileClient only for a config with `file_client_args`.

    mmengine always builds one when training starts and when it saves. The client warns twice that
    it is deprecated, and is used with these arguments only.
    """
    from mmengine.fileio import FileClient as Stock
    from mmengine.hooks import checkpoint_hook
    from mmengine.runner import checkpoint

    class FileClient(Stock):
        @classmethod
        def infer_client(cls, file_client_args: dict | None = None, uri: Any = None) -> Any:
            return file_client_args and super().infer_client(file_client_args, uri)

    checkpoint_hook.FileClient = checkpoint.FileClient = FileClient


def _hide_messages() -> None:
    """Hide five messages that no user can act on.

    mmcv warns that mmcv-lite has no compiled operators, which no model here needs. OneDL's data
    sets print that a package of OneDL is missing, since mmengine prints what is logged without a
    logger, debug messages too. PyTorch warns where nvcc is installed and no GPU is present. mmseg
    advises `avg_non_ignore=True`, which fails with class weights; with them, ignored pixels never
    count. mmseg 1.2.2 warns of a function that it calls itself.
    """
    from mmengine import logging as mmengine_logging

    stock = mmengine_logging.print_log

    @functools.wraps(stock)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            stock(msg, logger, level)

    mmengine_logging.print_log = print_log
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')
    warnings.filterwarnings('ignore', 'Default ``avg_non_ignore`` is False')
    warnings.filterwarnings('ignore', '``build_loss`` would be deprecated soon')
    logging.getLogger('torch.utils.cpp_extension').addFilter(
        lambda record: 'No CUDA runtime is found' not in record.msg
    )
