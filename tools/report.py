"""Write a page about one run: `python tools/report.py WORK_DIR`.

It shows all logged values, pictures, the config and the environment. WORK_DIR is the folder of a
run of tools/train.py, finished or not, or of a stage of a recipe. `tools/recipe.py run` writes the
report of a recipe.
"""

from pathlib import Path

from command_line import errors_on_one_line, make_parser


@errors_on_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument('work_dir', metavar='WORK_DIR', type=Path)
    parser.add_argument('--out', type=Path, help='page (default: WORK_DIR/report.html)')
    args = parser.parse_args(arguments)
    from reports import run_report  # imports torch and OpenMMLab, which takes seconds

    out = args.out or args.work_dir / 'report.html'
    run_report.write(out, args.work_dir)
    print(f'{out}: open it in a browser')


if __name__ == '__main__':
    main()
