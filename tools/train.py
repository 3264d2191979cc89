"""Train any config of this project, or of mmpretrain and mmseg: `python tools/train.py CONFIG`."""

from beit_mm.utils.processes import silence_other_ranks

silence_other_ranks()

# isort: split
import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import gc
import signal
import sys
from argparse import ArgumentParser, Namespace

from mmengine.config import Config

from beit_mm.config_check.preflight import preflight_on_rank_0
from beit_mm.engine import StopOnSignal, launch, process_group
from beit_mm.engine.find_checkpoint import list_checkpoints


def main() -> None:
    parser = launch.make_run_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from PATH, or from the newest intact checkpoint in the work_dir',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='learning rate × (batch here / auto_scale_lr.base_batch_size)',
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='train despite mistakes in the config, or in a work_dir that holds checkpoints',
    )
    args = parser.parse_args()
    cfg = launch.read_config(args)
    apply_options(cfg, args, parser)
    findings = preflight_on_rank_0(cfg)
    if any(finding.stops for finding in findings) and not args.force:
        sys.exit('nothing was trained: fix the config, or pass --force')
    if not args.force:
        launch.check_unused_folder(cfg)

    gc.freeze()  # mmengine collects garbage per data set: 0.5 s for everything that was imported
    runner = launch.build_runner(cfg)
    runner.register_hook(StopOnSignal())
    runner.train()
    process_group.leave()


def apply_options(cfg: Config, args: Namespace, parser: ArgumentParser) -> None:
    """Change `cfg` as --amp, --auto-scale-lr and --resume say, in place."""
    if args.amp:
        wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
            parser.error(
                f'--amp needs optim_wrapper.type=OptimWrapper, {args.config} has {wrapper}'
            )
        amp = dict(loss_scale='dynamic') | cfg.optim_wrapper
        cfg.optim_wrapper = dict(amp, type='AmpOptimWrapper')
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            parser.error(
                f'{args.config} has no auto_scale_lr.base_batch_size: add the batch size that its '
                'learning rate is meant for'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume and args.resume != 'auto':
        cfg.resume, cfg.load_from = True, args.resume
    elif args.resume and (list_checkpoints(cfg) or not cfg.get('load_from')):
        cfg.resume, cfg.load_from = True, None  # otherwise it starts from the weights of load_from


if __name__ == '__main__':
    # Ctrl-C ends the process until StopOnSignal takes over: KeyboardInterrupt can get lost in a
    # finalizer, or wait for other ranks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
