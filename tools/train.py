"""Train any config of this project, or of mmpretrain and mmseg: `python tools/train.py CONFIG`."""

import gc
import os
import signal
import sys

from beit_mm.config_check import preflight
from beit_mm.engine import StopOnSignal, launch


def main() -> None:
    parser = launch.parser(__doc__)
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
        help='train in spite of mistakes in the config, or in a work_dir that holds checkpoints',
    )
    args = parser.parse_args()
    cfg = launch.read_config(args)
    if args.amp:
        if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
            parser.error(
                f'--amp needs optim_wrapper.type=OptimWrapper, {args.config} has {cfg.optim_wrapper.type}'
            )
        cfg.optim_wrapper = dict(
            dict(loss_scale='dynamic') | cfg.optim_wrapper, type='AmpOptimWrapper'
        )
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            parser.error(
                f'{args.config} has no auto_scale_lr.base_batch_size (the batch its learning rate is for): add it'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume and args.resume != 'auto':
        cfg.resume, cfg.load_from = True, args.resume
    elif args.resume and (
        launch.earlier_checkpoints(cfg) or not cfg.get('load_from')
    ):  # or else start from these weights
        cfg.resume, cfg.load_from = True, None
    found = preflight.preflight(cfg, int(os.environ.get('WORLD_SIZE', 1)))
    if found and int(os.environ.get('RANK', 0)) == 0:
        print(preflight.report(cfg, found), file=sys.stderr)
    if any(problem.stops for problem in found) and not args.force:
        sys.exit('nothing was trained: mend the config, or pass --force')
    if not args.force:
        launch.refuse_used_folder(cfg)
    gc.freeze()  # mmengine collects garbage for each data set it makes: half a second to go through all that was imported
    runner = launch.build_runner(cfg)
    runner.register_hook(StopOnSignal())
    runner.train()
    launch.leave()


if __name__ == '__main__':
    # Until StopOnSignal takes over Ctrl-C ends the process: as an exception it can be lost in a finaliser, or wait for ranks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
