"""Pages about a pre-training, a tokenizer and a segmentor."""

from argparse import Namespace
from pathlib import Path

from mmengine.config import Config

from beit_mm.checkpoint import load_model
from beit_mm.models import Tokenizer
from beit_mm.viz.fill import draw_filled, make_masks
from beit_mm.viz.inputs import fit_size, read_model_image, resize
from beit_mm.viz.model_weights import ModelWeights
from beit_mm.viz.pages import write_page
from beit_mm.viz.tokens import write_tokens


def fill(args: Namespace) -> None:
    weights, tokenizer = ModelWeights(args.checkpoint), _load_tokenizer(args)
    backbone, head = weights.backbone(), weights.mim_head()
    if head.out_features != tokenizer.vocab_size:
        raise ValueError(
            f'{args.checkpoint} predicts {head.out_features} codes, {args.tokenizer} has '
            f'{tokenizer.vocab_size}: pass the tokenizer of this pre-training'
        )
    fingerprint = weights.target_fingerprint()
    if fingerprint and fingerprint != tokenizer.fingerprint():
        raise ValueError(
            f'{args.checkpoint} was trained with another tokenizer than {args.tokenizer}: pass '
            'the checkpoint that model.target.checkpoint of its config names'
        )
    images = []
    for path in args.images:
        image = read_model_image(path, weights.spec.in_channels)
        grid = fit_size(image.shape[:2], min(backbone.grid), 1)
        masks = make_masks(args.ratios, args.masks, grid, args.seed)
        pairs = draw_filled(
            backbone, head, tokenizer, image, masks, weights.normalization, args.bands
        )
        images.append(dict(name=path.name, pairs=pairs))
    write_page(args.out, 'fill.html', title='What pre-training predicts', images=images)


def tokens(args: Namespace) -> None:
    tokenizer = _load_tokenizer(args)
    stride = tokenizer.stride
    images = {}
    for path in args.images:
        image = read_model_image(path, tokenizer.in_channels)
        size = fit_size(image.shape[:2], args.size or 14 * stride, stride)
        images[str(path)] = resize(image, size, 'lanczos')
    write_tokens(args.out, tokenizer, images, args.bands)


def _load_tokenizer(args: Namespace) -> Tokenizer:
    if args.config is None:
        return ModelWeights(args.tokenizer).tokenizer()
    if not args.config.is_file():
        raise FileNotFoundError(f'{args.config} not found: expected a config')
    model = load_model(args.config, args.tokenizer)
    if not isinstance(model, Tokenizer):
        raise ValueError(f'{args.config} has a {type(model).__name__}: expected a Tokenizer')
    return model


def segment(args: Namespace) -> None:
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'{args.config} not found: expected a config')
    import beit_mm.registry  # noqa: F401  before mmseg
    from beit_mm.viz import segments  # needs mmseg

    model = segments.Segmentor(Config.fromfile(args.config), args.checkpoint)
    segments.write_segments(args.out, model, args.images, args.labels, args.bands)
