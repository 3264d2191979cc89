"""Test a checkpoint with the metrics of its config: `python tools/test.py CONFIG CHECKPOINT`."""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
from mmengine.evaluator import DumpResults

from beit_mm.engine import launch


def main() -> None:
    parser = launch.parser(__doc__)
    parser.add_argument(
        'checkpoint',
        help='what training with this config wrote, or another project, for the same model',
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='keep the predictions')
    args = parser.parse_args()
    cfg = launch.read_config(args)
    cfg.load_from = args.checkpoint
    if args.amp:
        cfg.test_cfg.fp16 = True
    runner = launch.build_runner(cfg, every_key=True)
    if args.out:
        runner.test_evaluator.metrics.append(DumpResults(args.out))
    runner.test()
    launch.leave()


if __name__ == '__main__':
    main()
