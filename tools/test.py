"""Test a checkpoint with the metrics of its config: `python tools/test.py CONFIG CHECKPOINT`."""

from beit_mm.utils.processes import silence_other_ranks

silence_other_ranks()

# isort: split
import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import sys

from mmengine.evaluator import DumpResults

from beit_mm.engine import launch, process_group


def main() -> None:
    parser = launch.make_run_parser(__doc__)
    parser.add_argument(
        'checkpoint', help='file of training with this config, or of another project, same model'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over the `tta_pipeline` of the config; for a classifier by default flips',
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='save the predictions')
    args = parser.parse_args()
    cfg = launch.read_config(args)
    cfg.load_from = args.checkpoint
    if args.tta:
        launch.augment_test(cfg)
    if args.amp:
        cfg.test_cfg.fp16 = True
    try:
        runner = launch.build_runner(cfg, every_key=True)
        if args.out:
            runner.test_evaluator.metrics.append(DumpResults(args.out))
        runner.test()
    except FileNotFoundError as error:  # a checkpoint or data
        sys.exit(f'error: {error}')
    process_group.leave()


if __name__ == '__main__':
    main()
