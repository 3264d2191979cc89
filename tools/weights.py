"""The published weights of BEiT and its relatives (`beit_mm/checkpoint/published.yml`).

python tools/weights.py list     name, kind, published figure and address of each
python tools/weights.py check    ask each address whether it still answers (needs a network; --offline skips)
python tools/weights.py write    renew the metafiles and the table of docs/models.md from the list
"""

import argparse
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import yaml

from beit_mm.checkpoint.download import HUB
from beit_mm.checkpoint.published import published

ROOT = Path(__file__).resolve().parents[1]
FIGURES = dict(top1='Top 1 Accuracy', top5='Top 5 Accuracy', miou='mIoU', miou_ms='mIoU(ms+flip)')
TASKS = dict(pretrain='mim', classification='classifier', segmentation='segmentor')
BEGIN, END = (
    '<!-- table of weights: begin. Written by `python tools/weights.py write`. -->',
    '<!-- table of weights: end -->',
)


def figures(entry: dict) -> dict[str, float]:
    """Return the published figures under OpenMMLab's names, in %."""
    return {name: entry[key] for key, name in FIGURES.items() if key in entry}


def metafile(kind: str) -> str:
    """Return the metafile of one kind of model, of those that a config of this project builds."""
    models = [
        entry for entry in published().values() if entry['kind'] == kind and 'config' in entry
    ]
    families = {entry['family']: entry for entry in models}
    collections = [
        dict(Name=f'{name}, {kind}', Paper=dict(Title=name, URL=entry['paper']), Code=entry['code'])
        for name, entry in families.items()
    ]
    header = '# Written by `python tools/weights.py write` from beit_mm/checkpoint/published.yml: change that file instead.\n'
    content = dict(Collections=collections, Models=[_of_metafile(entry) for entry in models])
    return header + yaml.safe_dump(content, sort_keys=False, width=1000)


def _of_metafile(entry: dict) -> dict:
    task = dict(classifier='Image Classification', segmentor='Semantic Segmentation').get(
        entry['kind']
    )
    found, name = figures(entry), entry['name']
    results = [dict(Task=task, Dataset=entry['data'][-1], Metrics=found)] if found else None
    return {
        'Name': name,
        'In Collection': f'{entry["family"]}, {entry["kind"]}',
        'Config': entry['config'],
        'Metadata': {'Parameters': entry['parameters'], 'Training Data': entry['data']},
        'Results': results,
        'Results From': entry['source'],
        'Weights': entry['address'],
        'Converted From': dict(
            Weights=entry['address'],
            Command=f'python tools/convert.py {name} checkpoints/{name}_beit-mm.pth --to beit_mm',
        ),
    }


def table() -> str:
    """Return the tables of docs/models.md, one per family."""
    families: dict[str, list[dict]] = {}
    for entry in published().values():
        families.setdefault(entry['family'], []).append(entry)
    parts = []
    for family, entries in families.items():
        sources = ', '.join(
            f'<{source}>' for source in dict.fromkeys(entry['source'] for entry in entries)
        )
        parts.append(f'\n### {family}\n\nSource: {sources}, read on {entries[0]["seen"]}.\n')
        parts.append(
            '| name | kind, data | published, % | config | the same weights, remarks |\n|---|---|---|---|---|'
        )
        parts += map(_row, entries)
    return '\n'.join(parts) + '\n'


def _row(entry: dict) -> str:
    found = ', '.join(f'{label} {value}' for label, value in figures(entry).items())
    config = f'`{entry["config"]}`' if 'config' in entry else '–'
    remarks = [
        *(f'`{other}`' for other in entry.get('also', ())),
        *filter(None, [entry.get('note')]),
    ]
    link = entry['address'].replace(HUB, 'https://huggingface.co/')
    kind = f'{entry["kind"]}, {", ".join(entry["data"])}'
    return f'| [`{entry["name"]}`]({link}) | {kind} | {found or "–"} | {config} | {"; ".join(remarks) or "–"} |'


def written() -> dict[Path, str]:
    """Return what the generated files should hold."""
    files = {ROOT / f'configs/{task}/metafile.yml': metafile(kind) for task, kind in TASKS.items()}
    page = ROOT / 'docs/models.md'
    before, _, rest = page.read_text(encoding='utf-8').partition(BEGIN)
    files[page] = f'{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}'
    return files


def answers(address: str) -> str | None:
    """Ask for the head of a file. Return why it cannot be had, or None."""
    if address.startswith(HUB):
        address = f'https://huggingface.co/api/models/{address.removeprefix(HUB)}'
    try:
        with urlopen(
            Request(address, method='HEAD', headers={'User-Agent': 'beit_mm'}), timeout=30
        ):
            return None
    except (OSError, HTTPException) as error:
        return f'{type(error).__name__} {error}'


def check(offline: bool) -> int:
    addresses = {
        address
        for entry in published().values()
        for address in [entry['address'], *entry.get('also', ())]
    }
    if offline:
        print(f'{len(addresses)} addresses were not asked (--offline)')
        return 0
    failed = 0
    for address in sorted(addresses):
        reason = answers(address)
        failed += reason is not None
        print(f'{"ok" if reason is None else reason}: {address}', flush=True)
    print(f'{len(addresses) - failed} of {len(addresses)} addresses answer')
    return int(failed > 0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        found = ', '.join(f'{label} {value}' for label, value in figures(entry).items())
        print(
            f'{name}  ({entry["family"]} {entry["kind"]}{f"; {found}" if found else ""})\n    {entry["address"]}'
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
