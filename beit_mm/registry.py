"""Registries in the scope `beit_mm`: children of mmengine's, so that `type='beit_mm.NAME'` works from any OpenMMLab config."""

from . import compat

compat.require('mmengine')  # mmengine's registries swallow what is raised here about the others

from mmengine import registry as root  # noqa: E402
from mmengine.registry import Registry  # noqa: E402

compat.apply()

# Modules that register classes, by registry; imported when a name is first looked up.
_MODULES = dict(
    MODELS=['beit_mm.models', 'beit_mm.checkpoint'],
    TRANSFORMS=[
        'beit_mm.data.blockwise_mask',
        'beit_mm.data.color_jitter',
        'beit_mm.data.two_views',
    ],
    DATASETS=['beit_mm.data.image_list', 'beit_mm.data.seeded_dataset'],
    DATA_SAMPLERS=['beit_mm.data.keyed_sampler'],
    HOOKS=['beit_mm.engine', 'beit_mm.data.check_samples'],
    METRICS=['beit_mm.engine'],
    OPTIM_WRAPPER_CONSTRUCTORS=['beit_mm.engine'],
    WEIGHT_INITIALIZERS=['beit_mm.checkpoint'],
    OPTIM_WRAPPERS=['beit_mm.engine.launch'],
)


def _child(name: str) -> Registry:
    parent = getattr(root, name)
    return Registry(parent.name, parent=parent, scope='beit_mm', locations=_MODULES.get(name, []))


MODELS = _child('MODELS')
TRANSFORMS = _child('TRANSFORMS')
DATASETS = _child('DATASETS')
DATA_SAMPLERS = _child('DATA_SAMPLERS')
HOOKS = _child('HOOKS')
METRICS = _child('METRICS')
OPTIM_WRAPPER_CONSTRUCTORS = _child('OPTIM_WRAPPER_CONSTRUCTORS')

# The rest is mirrored empty, so that a Runner whose default scope is `beit_mm` finds the hosts' parts without a warning.
EVALUATOR = _child('EVALUATOR')
LOG_PROCESSORS = _child('LOG_PROCESSORS')
LOOPS = _child('LOOPS')
MODEL_WRAPPERS = _child('MODEL_WRAPPERS')
OPTIM_WRAPPERS = _child('OPTIM_WRAPPERS')
OPTIMIZERS = _child('OPTIMIZERS')
PARAM_SCHEDULERS = _child('PARAM_SCHEDULERS')
RUNNER_CONSTRUCTORS = _child('RUNNER_CONSTRUCTORS')
RUNNERS = _child('RUNNERS')
TASK_UTILS = _child('TASK_UTILS')
VISBACKENDS = _child('VISBACKENDS')
VISUALIZERS = _child('VISUALIZERS')
WEIGHT_INITIALIZERS = _child('WEIGHT_INITIALIZERS')
