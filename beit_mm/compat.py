"""What the two OpenMMLab stacks need to run on today's PyTorch, and nothing else; nothing else here patches anything.

The stacks are OneDL's maintained builds (onedl-mmengine, …) and OpenMMLab's own last releases (mmengine 0.10.7, …); the
import names are the same. Each function that `apply` calls mends one fault, named in its docstring; a test shows that
the stock stack still has it. Importing this module imports neither torch nor OpenMMLab.
"""

import functools
import importlib
import pickle
import sys
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, repeat
from types import ModuleType
from typing import Any

_ONEDL, _OPENMMLAB = "OneDL's maintained builds", "OpenMMLab's own last releases"
_NEEDED = {  # import name: (least version, what pip installs it from)
    'torch': ((2, 10), {'PyPI': 'torch torchvision'}),
    'mmengine': ((0, 10), {_ONEDL: 'onedl-mmengine', _OPENMMLAB: 'mmengine'}),
    'mmcv': ((2, 1), {_ONEDL: 'onedl-mmcv', _OPENMMLAB: '"mmcv-lite>=2.1,<2.2"'}),
    'mmpretrain': (
        (1, 2),
        {_ONEDL: 'onedl-mmpretrain einops torchvision', _OPENMMLAB: 'mmpretrain torchvision'},
    ),
    'mmdet': ((3, 3), {_ONEDL: 'onedl-mmdetection', _OPENMMLAB: 'mmdet'}),
    'mmseg': ((1, 2), {_ONEDL: 'onedl-mmsegmentation', _OPENMMLAB: 'mmsegmentation ftfy regex'}),
}


def installed(package: str) -> bool:
    """Whether `package` can be found; nothing is imported."""
    return find_spec(package) is not None


def require(*packages: str) -> None:
    """Imports each of torch, mmengine, mmcv, mmpretrain, mmseg, mmdet that is named.

    Raises ImportError, with the pip command that mends it, for one that is missing, too old, or refused by its host.
    """
    for package in packages:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name not in _NEEDED:
                raise ImportError(
                    f'{package} needs {error.name}, which is missing: pip install {error.name}'
                ) from error
            raise ImportError(f'{error.name} is not installed. {_mend(error.name)}') from error
        except AssertionError as error:  # a host's check of the versions beneath it
            raise ImportError(
                f'{package} refuses what is installed: {error} {_mend(package)}'
            ) from error
        if _version(module) < _NEEDED[package][0]:
            raise ImportError(
                f'{package} is {module.__version__}, in {module.__file__}. {_mend(package)}'
            )


def _version(module: ModuleType) -> tuple[int, ...]:
    return tuple(map(int, module.__version__.split('.')[:2]))


def _mend(package: str) -> str:
    least, sources = _NEEDED[package]
    commands = ''.join(
        f'\n  pip install -U {names}    # {origin}' for origin, names in sources.items()
    )
    return f'beit_mm needs {package} >= {".".join(map(str, least))}, which pip installs:{commands}'


@functools.cache
def apply() -> None:
    """Mends the stack in place, once; not where PyTorch or mmengine is missing or too old, which `require` says."""
    try:
        require('torch', 'mmengine')
    except ImportError:
        return
    _load_weights_only()
    _stand_in_for_missing_ops()
    _leave_out_multimodal_models()
    _count_batches_inside_an_epoch()
    _skip_without_loading()
    _normalize_any_number_of_channels()


def _load_weights_only() -> None:
    """mmengine 0.10.7 cannot resume its own checkpoints: its HistoryBuffer and NumPy's scalars are not on the list of
    `torch.load(weights_only=True)`; onedl-mmengine loads what fails there with False, which runs the pickle's code.

    With this both always load with True, and the list holds what their checkpoints hold.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import checkpoint

    def refuse(*args: Any) -> None:
        raise pickle.UnpicklingError(f'WeightsUnpickler error: Unsupported call with {args}')

    def statistic(owner: type, name: str) -> Any:
        return (
            getattr(owner, name)
            if owner is HistoryBuffer and name in names
            else refuse(owner, name)
        )

    def empty_array(kind: Any, shape: tuple, code: bytes) -> np.ndarray:
        return np.zeros(0)  # its contents come next

    names = ('min', 'max', 'mean', 'current')
    scalar = np.float32(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdgFDUS'}  # all but objects
    allowed = [HistoryBuffer, (statistic, 'builtins.getattr'), np.dtype, *dtypes]
    for multiarray in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # NumPy 1 and 2
        allowed += [(empty_array, f'{multiarray}._reconstruct'), (scalar, f'{multiarray}.scalar')]
    # np.ndarray(shape, object, bytes) takes the bytes for addresses: a file may name the class, not call it. To fill an
    # empty array the class itself has to be listed, so it is, under a name that no pickle can spell.
    allowed += [(refuse, 'numpy.ndarray'), (np.ndarray, 'numpy.ndarray\n')]
    torch.serialization.add_safe_globals(allowed)

    checkpoint.load_url = functools.partial(
        checkpoint.load_url, weights_only=True
    )  # what resolves to http(s)
    if hasattr(checkpoint, '_safe_torch_load'):  # onedl: the remaining schemes
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)


def _stand_in_for_missing_ops() -> None:
    """mmseg 1.2.2 and mmdet import mmcv.ops without a guard, which fails where mmcv has no compiled ops (as mmcv-lite).

    With a stand-in during that one import, all of mmcv.ops is there and an op says what is missing when it is called.
    The one that every detector needs to predict, suppression of boxes, is torchvision's.
    """
    if not installed('mmcv') or find_spec('mmcv._ext'):
        return
    import mmcv

    if not installed('mmdet') and (not installed('mmseg') or _version(mmcv) >= (2, 3)):
        return  # onedl's mmseg guards these imports, and has fallbacks for some
    source = f'{"onedl-" if _version(mmcv) >= (2, 3) else ""}mmcv=={mmcv.__version__}'

    class NoOps(ModuleType):
        @staticmethod
        def nms(bboxes: Any, scores: Any, iou_threshold: float, offset: int) -> Any:
            from torchvision.ops import nms

            return nms(bboxes + bboxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold)

        def __getattr__(self, name: str) -> Any:
            def op(*args: Any, **kwargs: Any) -> None:
                raise ImportError(
                    f'the compiled op {name} of mmcv was called, but mmcv {mmcv.__version__} has none: build it with '
                    f'`MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary :all: --no-deps {source}`'
                )

            return op

    sys.modules['mmcv._ext'] = NoOps('mmcv._ext')
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules['mmcv._ext']  # mmengine's mmcv_full_available() goes on telling the truth


def _leave_out_multimodal_models() -> None:
    """mmpretrain.models cannot be imported beside transformers 5 and pycocotools, which MMDetection needs: with both there
    it makes its multimodal models, out of names that transformers no longer has. Without them it says so itself.
    """
    if not all(map(installed, ('mmpretrain', 'pycocotools', 'transformers'))):
        return
    if int(version('transformers').split('.')[0]) < 5:
        return
    from mmpretrain.utils import dependency

    dependency.WITH_MULTIMODAL = False


def _count_batches_inside_an_epoch() -> None:
    """An epoch loop that is resumed inside an epoch calls its next batch the first, so hooks log and end the epoch at wrong
    places (both stacks). With this it counts from `loop.first_batch`, which the hook ExactResume sets.
    """
    from mmengine.runner import EpochBasedTrainLoop

    stock = EpochBasedTrainLoop.run_iter

    def run_iter(loop: Any, idx: int, data_batch: Any) -> None:
        stock(loop, loop.first_batch + idx, data_batch)

    EpochBasedTrainLoop.first_batch, EpochBasedTrainLoop.run_iter = 0, run_iter


def _skip_without_loading() -> None:
    """mmengine 0.10.7 resumes an iteration-based run by loading every batch that was trained on, also where the sampler can
    skip them, and sets workers to work from the beginning before it resumes.
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
        if loop._iter and loop.dataloader.batch_size and hasattr(loop.dataloader.sampler, 'skip'):
            loop.dataloader.sampler.skip(loop._iter * loop.dataloader.batch_size)
            loop.dataloader_iterator = chain(repeat(None, loop._iter), loop.dataloader_iterator)
        return run(loop)

    loops._InfiniteDataloaderIterator, loops.IterBasedTrainLoop.run = (
        LazyIterator,
        run_from_position,
    )


def weigh_classes_beside_ignored_pixels() -> None:
    """mmseg 1.2.2's cross-entropy looks a weight up for every label before it passes over the ignored ones: an IndexError
    for 255, on a GPU an assertion that ends the process. Called where mmseg is imported, not by `apply`.
    """
    from mmseg.models.losses import cross_entropy_loss

    stock = cross_entropy_loss.cross_entropy
    if _version(importlib.import_module('mmseg')) >= (1, 3) or isinstance(stock, functools.partial):
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


def _normalize_any_number_of_channels() -> None:
    """mmengine's ImgDataPreprocessor, which OneDL's mmseg extends, refuses `mean` and `std` of other than 1 or 3 values.

    With this it takes as many values as images have channels.
    """
    import torch
    from mmengine.model import ImgDataPreprocessor

    stock = ImgDataPreprocessor.__init__
    if isinstance(getattr(stock, '__wrapped__', None), type(stock)):
        return

    @functools.wraps(stock)
    def init(self: Any, mean: Any = None, std: Any = None, *args: Any, **kwargs: Any) -> None:
        several = (
            mean is not None
            and std is not None
            and len(mean) == len(std)
            and len(mean) not in (1, 3)
        )
        stock(self, *((mean[:1], std[:1]) if several else (mean, std)), *args, **kwargs)
        if several:
            for name, values in dict(mean=mean, std=std).items():
                self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), False)

    ImgDataPreprocessor.__init__ = init
