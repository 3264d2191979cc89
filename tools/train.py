"""Train any config of this project, or of mmpretrain and mmseg: `python tools/train.py CONFIG`."""

import gc
import os
import signal
import sys

from beit_mm.engine import StopOnSignal, launch, preflight


def main() -> None:
    parser = launch.parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from PATH, or from the newest checkpoint that is whole',
    )
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='learning rate × (batch here / auto_scale_lr.base_batch_size)'
    )
    parser.add_argument('--force', action='store_true', help='train although the check of the config finds mistakes')
    args = parser.parse_args()
    cfg = launch.read_config(args)
    if args.amp:
        if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
            parser.error(f'--amp needs optim_wrapper.type=OptimWrapper, {args.config} has {cfg.optim_wrapper.type}')
        cfg.optim_wrapper = dict(dict(loss_scale='dynamic') | cfg.optim_wrapper, type='AmpOptimWrapper')
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            parser.error(
                f'{args.config} has no auto_scale_lr.base_batch_size (the batch its learning rate is for): add it'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume, cfg.load_from = True, None if args.resume == 'auto' else args.resume
    found = preflight.preflight(cfg, int(os.environ.get('WORLD_SIZE', 1)))
    if found and int(os.environ.get('RANK', 0)) == 0:
        print(preflight.report(cfg, found), file=sys.stderr)
    if any(problem.stops for problem in found) and not args.force:
        sys.exit('nothing was trained: mend the config, or pass --force')
    gc.freeze()  # mmengine collects garbage for each data set it makes: half a second to go through all that was imported
    runner = launch.build_runner(cfg)
    runner.register_hook(StopOnSignal())
    runner.train()
    launch.leave()


if __name__ == '__main__':
    # Until StopOnSignal takes over Ctrl-C ends the process: as an exception it can be lost in a finaliser, or wait for ranks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
