"""The model card of a folder for Hugging Face: a README.md with the fields that its site reads."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from beit_mm import __version__
from beit_mm.checkpoint.model_spec import ModelSpec
from beit_mm.checkpoint.parse import Checkpoint
from beit_mm.checkpoint.published import find_published

PIPELINES = dict(classifier='image-classification', segmentor='image-segmentation')
FIGURES = dict(top1='top-1 (%)', top5='top-5 (%)', miou='mIoU (%)', miou_ms='mIoU, several scales')
TIMES = 'step', 'time', 'data_time'  # beside the metrics of a validation
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name('templates')),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def write_card(folder: Path, checkpoint: Checkpoint, spec: ModelSpec) -> None:
    """Write what is known about the weights; README.md is kept if it exists."""
    path = folder / 'README.md'
    if path.exists():
        return
    entry = find_published(checkpoint.source) or {}
    config = json.loads((folder / 'config.json').read_text())
    labels = list(config.get('id2label', {}).values())
    height, width = spec.img_size
    values = dict(
        name=folder.resolve().name,
        pipeline=PIPELINES.get(spec.kind, 'image-feature-extraction'),
        license=entry.get('license'),
        base_model=find_base(entry),
        model=config['architectures'][0],
        layers=spec.arch['num_layers'],
        dims=spec.arch['embed_dims'],
        heads=spec.arch['num_heads'],
        patch=spec.patch_size,
        height=height,
        width=width,
        source=Path(checkpoint.source).name,
        origin=checkpoint.origin,
        version=__version__,
        classes=[] if 'LABEL_0' in labels else labels,
        training=describe_training(checkpoint, entry),
        metrics=find_metrics(checkpoint, entry),
        paper=entry.get('paper'),
        config=checkpoint.meta.get('cfg', '').strip(),
    )
    path.write_text(ENVIRONMENT.get_template('card.md').render(values), encoding='utf-8')


def find_base(entry: dict) -> str | None:
    """Return the name on Hugging Face of the same weights."""
    hub = [name for name in entry.get('also', ()) if name.startswith('hf://')]
    return hub[0].removeprefix('hf://') if hub else None


def describe_training(checkpoint: Checkpoint, entry: dict) -> str:
    if entry:
        return f'Published weights, trained on {" and ".join(entry["data"])}: {entry["source"]}'
    meta = checkpoint.meta
    if 'iter' not in meta:
        return 'Nothing is known about the training. Write here what you know.'
    length = f'{meta["epoch"]} epochs, ' if meta.get('epoch') else ''
    return f'Trained by beit_mm for {length}{meta["iter"]} iterations with seed {meta.get("seed")}.'


def find_metrics(checkpoint: Checkpoint, entry: dict) -> dict[str, float]:
    """Return published figures, or what the last validation of the checkpoint's run logged."""
    if entry:
        return {text: entry[key] for key, text in FIGURES.items() if key in entry}
    found = {}
    for log in sorted(Path(checkpoint.source).parent.glob('*/vis_data/scalars.json')):
        for line in map(json.loads, log.read_text().splitlines()):
            if 'lr' not in line and 'loss' not in line:
                found = {key: value for key, value in line.items() if key not in TIMES}
    return found
