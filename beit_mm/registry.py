"""Registries of the scope `beit_mm`, so that any OpenMMLab config can use `type='beit_mm.NAME'`."""

from . import compat
from .utils import packages

packages.require('mmengine')  # mmengine would hide the error below

from mmengine import registry as root  # noqa: E402
from mmengine.registry import Registry  # noqa: E402

compat.apply()


def _create(name: str, *modules: str) -> Registry:
    """Return a child of mmengine's registry; the first lookup imports the modules that fill it."""
    parent = getattr(root, name)
    locations = [f'beit_mm.{module}' for module in modules]
    return Registry(parent.name, parent=parent, scope='beit_mm', locations=locations)


MODELS = _create('MODELS', 'models', 'checkpoint')
TRANSFORMS = _create('TRANSFORMS', 'data.blockwise_mask', 'data.color_jitter', 'data.two_views')
DATASETS = _create('DATASETS', 'data.image_list', 'data.seeded_dataset')
DATA_SAMPLERS = _create('DATA_SAMPLERS', 'data.seeded')
HOOKS = _create('HOOKS', 'engine', 'data.check_samples')
METRICS = _create('METRICS', 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _create('OPTIM_WRAPPER_CONSTRUCTORS', 'engine')
OPTIM_WRAPPERS = _create('OPTIM_WRAPPERS', 'engine.cpu')
WEIGHT_INITIALIZERS = _create('WEIGHT_INITIALIZERS', 'checkpoint')

# A Runner with the default scope `beit_mm` finds the classes of mmengine and of host libraries
# without a warning if all other registries have a child, too.
for _name in (
    'EVALUATOR', 'LOG_PROCESSORS', 'LOOPS', 'MODEL_WRAPPERS', 'OPTIMIZERS', 'PARAM_SCHEDULERS',
    'RUNNERS', 'RUNNER_CONSTRUCTORS', 'TASK_UTILS', 'VISBACKENDS', 'VISUALIZERS',
):  # fmt: skip
    _create(_name)
