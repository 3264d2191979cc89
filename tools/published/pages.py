"""The metafiles of the configs and the tables of docs/models.md, from the list of weights."""

from pathlib import Path

import yaml

from beit_mm.checkpoint.download import HUB
from beit_mm.checkpoint.published import published

ROOT = Path(__file__).resolve().parents[2]
FIGURES = dict(top1='Top 1 Accuracy', top5='Top 5 Accuracy', miou='mIoU', miou_ms='mIoU(ms+flip)')
KINDS = dict(pretrain='mim', classification='classifier', segmentation='segmentor')
TASK_OF_KIND = dict(classifier='Image Classification', segmentor='Semantic Segmentation')
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
        results = dict(Task=TASK_OF_KIND.get(kind), Dataset=entry['data'][-1], Metrics=found)
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
