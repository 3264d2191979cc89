"""The published weights of BEiT and its relatives (`beit_mm/checkpoint/published.yml`).

python tools/weights.py list     name, kind, published figure and address of each
python tools/weights.py check    ask each address whether it still answers (--offline asks none)
python tools/weights.py write    renew the metafiles and the table of docs/models.md from the list
"""

import os
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import yaml
from command_line import make_parser

from beit_mm.checkpoint.download import HUB
from beit_mm.checkpoint.published import published

ROOT = Path(__file__).resolve().parents[1]
FIGURES = dict(top1='Top 1 Accuracy', top5='Top 5 Accuracy', miou='mIoU', miou_ms='mIoU(ms+flip)')
KINDS = dict(pretrain='mim', classification='classifier', segmentation='segmentor')
TASKS = dict(classifier='Image Classification', segmentor='Semantic Segmentation')
HEADER = (
    '# Written by `python tools/weights.py write` from beit_mm/checkpoint/published.yml: '
    'change that file instead.\n'
)
BEGIN = '<!-- table of weights: begin. Written by `python tools/weights.py write`. -->'
END = '<!-- table of weights: end -->'
COLUMNS = (
    '| name | kind, data | published, % | config | the same weights, remarks |\n'
    '|---|---|---|---|---|'
)


def written() -> dict[Path, str]:
    """Return what the generated files should hold."""
    files = {ROOT / f'configs/{task}/metafile.yml': metafile(kind) for task, kind in KINDS.items()}
    page = ROOT / 'docs/models.md'
    before, _, rest = page.read_text(encoding='utf-8').partition(BEGIN)
    files[page] = f'{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}'
    return files


def figures(entry: dict) -> dict[str, float]:
    """Return the published figures under OpenMMLab's names, in %."""
    return {name: entry[key] for key, name in FIGURES.items() if key in entry}


def figures_text(entry: dict) -> str:
    return ', '.join(f'{name} {value}' for name, value in figures(entry).items())


def metafile(kind: str) -> str:
    """Return the metafile of the models of one kind for which this project has configs."""
    collections, models = {}, []
    for name, entry in published().items():
        if entry['kind'] != kind or 'config' not in entry:
            continue
        family, address, found = entry['family'], entry['address'], figures(entry)
        paper = dict(Title=family, URL=entry['paper'])
        collections[family] = dict(Name=f'{family}, {kind}', Paper=paper, Code=entry['code'])
        results = dict(Task=TASKS.get(kind), Dataset=entry['data'][-1], Metrics=found)
        command = f'python tools/convert.py {name} checkpoints/{name}_beit-mm.pth --to beit_mm'
        models.append({
            'Name': name,
            'In Collection': f'{family}, {kind}',
            'Config': entry['config'],
            'Metadata': {'Parameters': entry['parameters'], 'Training Data': entry['data']},
            'Results': [results] if found else None,
            'Results From': entry['source'],
            'Weights': address,
            'Converted From': dict(Weights=address, Command=command),
        })  # fmt: skip
    content = dict(Collections=list(collections.values()), Models=models)
    return HEADER + yaml.safe_dump(content, sort_keys=False, width=1000)


def table() -> str:
    """Return the tables of docs/models.md, one per family."""
    families: dict[str, list[dict]] = {}
    for entry in published().values():
        families.setdefault(entry['family'], []).append(entry)
    parts = []
    for family, entries in families.items():
        sources = ', '.join(dict.fromkeys(f'<{entry["source"]}>' for entry in entries))
        parts.append(f'\n### {family}\n\nSource: {sources}, read on {entries[0]["seen"]}.\n')
        parts += [COLUMNS, *map(_row, entries)]
    return '\n'.join(parts) + '\n'


def _row(entry: dict) -> str:
    link = entry['address'].replace(HUB, 'https://huggingface.co/')
    remarks = [f'`{also}`' for also in entry.get('also', ())]
    remarks += [entry['note']] if 'note' in entry else []
    cells = [
        f'[`{entry["name"]}`]({link})',
        ', '.join([entry['kind'], *entry['data']]),
        figures_text(entry) or '–',
        f'`{entry["config"]}`' if 'config' in entry else '–',
        '; '.join(remarks) or '–',
    ]
    return f'| {" | ".join(cells)} |'


def answers(address: str) -> str | None:
    """Ask for the head of a file. Return why it cannot be had, or None."""
    if address.startswith(HUB):
        endpoint = os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')
        address = f'{endpoint}/api/models/{address.removeprefix(HUB)}'
    request = Request(address, method='HEAD', headers={'User-Agent': 'beit_mm'})
    try:
        with urlopen(request, timeout=30):
            return None
    except (OSError, HTTPException) as error:
        return f'{type(error).__name__} {error}'


def check(offline: bool) -> int:
    addresses = set()
    for entry in published().values():
        addresses |= {entry['address'], *entry.get('also', ())}
    if offline:
        print(f'{len(addresses)} addresses were not asked (--offline)')
        return 0
    failed = 0
    for address in sorted(addresses):
        reason = answers(address)
        failed += reason is not None
        print(f'{reason or "ok"}: {address}', flush=True)
    print(f'{len(addresses) - failed} of {len(addresses)} addresses answer')
    return int(failed > 0)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument('command', choices=['list', 'check', 'write'])
    parser.add_argument('--offline', action='store_true', help='ask no address')
    args = parser.parse_args(argv)
    if args.command == 'check':
        return check(args.offline)
    if args.command == 'write':
        for path, text in written().items():
            path.write_text(text, encoding='utf-8')
            print(f'wrote {path.relative_to(ROOT)}')
        return 0
    for name, entry in published().items():
        about = '; '.join(filter(None, [f'{entry["family"]} {entry["kind"]}', figures_text(entry)]))
        print(f'{name}  ({about})\n    {entry["address"]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
