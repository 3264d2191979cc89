"""Build a Runner from a command line, with everything that protects a run."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..config_check.names import RUNNER_KEYS, refuse_old_names
from ..data.check_samples import CheckSamples
from ..data.image_folders import list_readable
from ..utils import packages
from ..utils.arguments import join_names
from ..utils.cfg_options import Options
from ..utils.command_line import make_parser
from ..utils.config_tree import find_dataset, get, kind, nodes
from ..utils.installation import command
from .cpu import adapt_to_cpu
from .determinism import ExactResume, KeyedRandomness
from .find_checkpoint import list_checkpoints
from .hooks.cached_tokens import CachedTokens
from .hooks.convert_checkpoint import ConvertCheckpoint
from .hooks.deferred_log import DeferredLog
from .process_group import LAUNCHERS, collective_timeout, join, resume_after_restart, set_ranks
from .watchdog import Watchdog

_HOST_LIBRARIES = ('mmpretrain', 'mmseg', 'mmdet')


def make_run_parser(description: str) -> ArgumentParser:
    """Return a parser with the arguments that training and testing share, for `read_config`."""
    parser = make_parser(description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: work_dirs/NAME OF THE CONFIG)'
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 on a CPU that supports it',
    )
    parser.add_argument('--launcher', choices=['none', *LAUNCHERS], default='none')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='KEY=VALUE … to override config values, e.g. train_cfg.max_iters=9',
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, help='ignored: the environment determines it'
    )
    return parser


def read_config(args: Namespace) -> Config:
    """Return the config with launcher and work_dir, see `load_config`; set the rank's variables."""
    if args.launcher != 'none':
        set_ranks(args.launcher)
    cfg = load_config(args)
    cfg.launcher = args.launcher
    default = str(Path('work_dirs', Path(args.config).stem))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default
    return cfg


def load_config(args: Namespace) -> Config:
    """Return the config with `--cfg-options`.

    Exits if there is no such file, if an option would change nothing, or if the config has names of
    an earlier version. Raises ImportError if it needs a package that is missing
    (`require_packages`).
    """
    if not Path(args.config).is_file():
        hint = f'. `{command("test")} --tta` replaces it' if args.config.endswith('_ms.py') else ''
        raise SystemExit(f'error: {args.config} not found: expected a config{hint}')
    cfg = Config.fromfile(args.config)
    refuse_variables(cfg, args.cfg_options or {})
    cfg.merge_from_dict(args.cfg_options or {})
    require_packages(cfg)
    refuse_old_names(cfg.to_dict())
    return cfg


def refuse_variables(cfg: Config, options: dict[str, object]) -> None:
    """Exit if an option sets a variable of the config, from which values were computed before."""
    for name in options:
        if isinstance(cfg.get(name), int | float | str) and name not in RUNNER_KEYS:
            raise SystemExit(
                f'error: --cfg-options {name}=… would change nothing: {name} is a variable of '
                f'{cfg.filename}, whose values were computed with {cfg[name]!r}. Change it in a '
                'copy of the file that sets it, or pass the values themselves, such as '
                'train_cfg.max_epochs=10'
            )


def require_packages(cfg: Config) -> None:
    """Raise ImportError, with the pip command, if a host library of the config is missing or old.

    The host libraries are those in `default_scope`, in `_scope_` and in types, such as
    'mmpretrain.CustomDataset'.
    """
    scopes = {cfg.get('default_scope')}
    for node in nodes(cfg.to_dict()):
        scopes |= {node.get('_scope_'), str(node.get('type')).partition('.')[0]}
    packages.require(
        'torch', 'mmengine', 'mmcv', *(lib for lib in _HOST_LIBRARIES if lib in scopes)
    )


def build_runner(cfg: Config, every_key: bool = False) -> Runner:
    """Build the Runner of a config, with the hooks that every run has; changes `cfg` in place.

    `load_from` may name a checkpoint of any project; with `every_key`, a checkpoint that lacks a
    key is an error. On a machine without a GPU the process group is created here.
    """
    require_packages(cfg)
    for key in ('env_cfg', 'randomness', 'log_processor'):  # None is no valid value for mmengine
        if cfg.get(key, {}) is None:
            cfg.pop(key)
    resume_after_restart(cfg)
    on_cpu = get_device() == 'cpu'
    if cfg.get('launcher', 'none') != 'none':
        join(cfg.launcher, 'gloo' if on_cpu else None, collective_timeout(cfg))
    changes = adapt_to_cpu(cfg) if on_cpu else []
    use_atomic_checkpoints(cfg)
    log_locally(cfg)
    seed_data(cfg)
    list_readable([cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')])

    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(ConvertCheckpoint(strict=every_key))
    for hook in (KeyedRandomness, ExactResume, CheckSamples, CachedTokens, Watchdog, DeferredLog):
        if not any(isinstance(known, hook) for known in runner.hooks):
            runner.register_hook(hook())
    for change in changes:
        runner.logger.info(f'No GPU here: {change}')
    return runner


def augment_test(cfg: Config) -> None:
    """Wrap the model in `tta_model`, and test on `tta_pipeline`, as mmpretrain and mmseg do."""
    dataset = find_dataset(cfg.test_dataloader)
    *steps, pack = dataset.pipeline
    if cfg.get('default_scope') == 'mmpretrain':
        flips = [dict(type='RandomFlip', prob=probability) for probability in (0.0, 1.0)]
        augment = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        cfg.setdefault('tta_pipeline', [*steps, augment])
    if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
        raise SystemExit(f'error: --tta: {cfg.filename} has no tta_model and tta_pipeline')
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def check_unused_folder(cfg: Config) -> None:
    """Exit if a new run would overwrite or mix with the checkpoints of an earlier run."""
    resume_after_restart(cfg)
    found = list_checkpoints(cfg)
    if not found or _resumes_from(cfg, {path.resolve().parent for path in found}):
        return
    names = join_names([path.name for path in found])
    raise SystemExit(
        f'error: {found[0].parent} holds checkpoints of an earlier run ({names}), and this run '
        'would overwrite some of them and mix its own with the rest. Continue the earlier run with '
        '--resume, choose another folder with --work-dir, remove the checkpoints, or start in this '
        'folder anyway with --force'
    )


def _resumes_from(cfg: Config, folders: set[Path]) -> bool:
    """Return whether a run resumes from a checkpoint in these folders."""
    if not cfg.get('resume'):
        return False
    if cfg.get('load_from'):
        return Path(cfg.load_from).resolve().parent in folders
    hook = get(cfg.get('default_hooks'), 'checkpoint') or {}
    # mmengine's own hook resumes from the file that last_checkpoint names, or else starts again.
    stock = hook.get('type', 'CheckpointHook') == 'mmengine.CheckpointHook'
    return not stock or Path(cfg.work_dir, 'last_checkpoint').is_file()


def use_atomic_checkpoints(cfg: Config) -> None:
    """Replace mmengine's CheckpointHook, which can lose every checkpoint, in place."""
    hooks = cfg.get('default_hooks') or {}
    checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint and checkpoint.get('type') == 'CheckpointHook' and 'runner_type' not in cfg:
        checkpoint = dict(checkpoint, type='beit_mm.AtomicCheckpointHook')
        cfg.default_hooks = dict(hooks, checkpoint=checkpoint)


def log_locally(cfg: Config) -> None:
    """Make the visualizer write vis_data/scalars.json, from which reports are made, in place.

    Adds a local backend unless there is one with the default folder and file. A fixed `name`, which
    mmseg's tools need, is removed: two runs of a process would write into the folder of the first.
    """
    visualizer = cfg.get('visualizer')
    if not isinstance(visualizer, dict):
        return
    if visualizer.get('name') == 'visualizer':
        del visualizer['name']
    backends = visualizer.get('vis_backends') or []
    backends = [backends] if isinstance(backends, dict) else list(backends)
    folder = visualizer.pop('save_dir', None)
    for backend in backends:
        if folder and isinstance(backend, dict):
            backend.setdefault('save_dir', str(Path(folder, 'vis_data')))
    if not any(map(_writes_default_file, backends)):
        backends.insert(0, dict(type='LocalVisBackend', name='report'))
    visualizer['vis_backends'] = backends


def _writes_default_file(backend: object) -> bool:
    if kind(backend) != 'LocalVisBackend' or backend.get('save_dir') is not None:
        return False
    return backend.get('scalar_save_file', 'scalars.json') == 'scalars.json'


def seed_data(cfg: Config) -> None:
    """Give a SeededDataset for training the run's seed, unless it has its own, in place.

    Validation keeps seed 0, so its crops and masks are the same for all runs.
    """
    seed = get(cfg.get('randomness'), 'seed')
    dataset = get(cfg.get('train_dataloader'), 'dataset')
    if seed is not None and kind(dataset) == 'SeededDataset':
        dataset.setdefault('seed', seed)
