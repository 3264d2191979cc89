"""Pieces of a report: what a stage's model does with a few validation images, in a heading, a sentence and a table."""

from pathlib import Path

from beit_mm.viz import draw
from beit_mm.viz.draw import text

from . import pictures


def of_stage(work_dir: Path, name: str) -> str:
    """The section for the kind of model that a stage trains; '' for one that nothing is drawn of."""
    model = pictures.stage_config(work_dir, name).model
    kind = model.type.rpartition('.')[2]
    if kind == 'DiscreteVAE':
        return tokenizer(work_dir, name)
    if kind == 'BEiTPretrainer':
        return pretraining(work_dir, name) if 'tokenizer' in model.target else ''
    if kind == 'EncoderDecoder':
        return segmentation(work_dir, name.partition('/')[0], [name])
    return classification(work_dir, name) if kind == 'ImageClassifier' else ''


def tokenizer(work_dir: Path, name: str) -> str:
    columns, scenes = pictures.tokenizer(work_dir, name)
    words = 'Each patch of an image became one integer, its token; from these alone the decoder draws the image again.'
    pairs = [left + right for left, right in zip(scenes[::2], scenes[1::2], strict=False)] or scenes
    columns *= len(pairs[0]) // 2
    return f'<h2>What the tokenizer keeps</h2><p>{words}</p>' + draw.picture_table(columns, pairs)


def pretraining(work_dir: Path, name: str) -> str:
    columns, scenes = pictures.pretraining(work_dir, name)
    words = (
        'BEiT sees the patches that are not grey and guesses the tokens of the others. The last two columns are drawn '
        "by the tokenizer's decoder: from the true tokens, and with the likeliest guess in each hidden place."
    )
    return f'<h2>What pre-training guesses</h2><p>{words}</p>' + draw.picture_table(columns, scenes)


def segmentation(work_dir: Path, task: str, names: list[str]) -> str:
    columns, scenes, colours = pictures.segmentation(work_dir, names)
    words = 'Validation images'
    if len(names) > 1:
        words += (
            '; each column is the same network after as many labels and steps, from another start'
        )
    html = f'<h2>{text(task.capitalize())}</h2><p>{words}.</p>'
    return html + draw.picture_table(columns, scenes) + draw.legend(colours)


def classification(work_dir: Path, name: str) -> str:
    images, captions = pictures.classification(work_dir, name)
    return '<h2>What it takes validation images for</h2>' + draw.gallery(images, captions)
