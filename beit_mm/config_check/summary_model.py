"""Summarize the model and the images of a config."""

from ..utils.config_tree import find, find_dataset, get, kind
from .finding import OFF

TWO_PICTURES = 'RandomResizedCropAndInterpolationWithTwoPic'  # mmpretrain's two views
VARIANTS = {  # by absolute positions, relative positions and LayerScale; others are mixed
    (True, False, False): 'vanilla',
    (True, False, True): 'LayerScale',
    (False, True, True): 'BEiT+',
}
DALLE = dict(vocab_size=8192, groups=4)  # mmpretrain's target generator
# type of the mask: its name, its arguments for number, grid and smallest block, default of the last
MASKS = dict(
    BlockwiseMask=('blockwise', 'num_masked', 'grid', 'min_block', 16),
    RandomMask=('random', 'num_masked', 'grid', '', None),
    BEiTMaskGenerator=('blockwise', 'num_masking_patches', 'input_size', 'min_num_patches', 4),
)
# setting: type of the part in the model or the training set, and its arguments
SUMMARIZED_TRANSFORMS = dict(
    flip=('RandomFlip', ['prob']),
    jitter=('ColorJitter', ['brightness', 'contrast', 'saturation']),
    rand_augment=('RandAugment', ['magnitude_level', 'magnitude_std']),
    erasing=('RandomErasing', ['erase_prob']),
    mixup=('Mixup', ['alpha']),
    cutmix=('CutMix', ['alpha']),
    label_smoothing=('LabelSmoothLoss', ['label_smooth_val']),
    resize_range=('RandomResize', ['ratio_range']),
    cat_max_ratio=('RandomCrop', ['cat_max_ratio']),
)


def summarize_model(cfg: dict, model: dict, task: str) -> dict:
    """Summarize the model of a config and the images that it is trained on."""
    if task == 'tokenizer':
        return _summarize_tokenizer(cfg, model)
    dataset = get(cfg, 'train_dataloader', 'dataset')
    pipeline = get(find_dataset(dataset), 'pipeline')
    summary = _summarize_backbone(model['backbone'], cfg.get('default_scope'))
    summary |= _summarize_parts([model, pipeline]) | _summarize_crop(pipeline)
    if task == 'pretrain':
        return summary | _summarize_masking(model, pipeline, summary['image_size'])
    if task == 'classification':
        return summary | _summarize_classifier(cfg, model)
    return summary | _summarize_segmentor(model, pipeline)


def _first(size: object) -> object:
    """Return the side of a square size, however a config writes it."""
    return size[0] if isinstance(size, list | tuple) else size


def _summarize_backbone(backbone: dict, scope: str | None) -> dict:
    arch, size = backbone.get('arch', 'base'), _first(backbone.get('img_size', 224))
    unscoped = '.' not in str(backbone['type'])
    if kind(backbone) != 'BEiT':  # mmpretrain's
        absolute = backbone.get('use_abs_pos_emb', False)
        is_shared = kind(backbone) == 'BEiTPretrainViT'
        shared = 'shared' if backbone.get('use_shared_rel_pos_bias', is_shared) else None
        relative = 'per_layer' if backbone.get('use_rel_pos_bias') else shared
        layer_scale = backbone.get('layer_scale_init_value', 0.1)
    elif 'embed_dims' in backbone or (scope == 'mmseg' and unscoped):  # mmseg's
        arch = dict(embed_dims=768, num_layers=12) | backbone
        absolute, relative = False, 'per_layer'
        layer_scale = backbone.get('init_values', 0.1)
    else:
        absolute, relative = backbone.get('abs_pos_embed', False), backbone.get('rel_pos_bias')
        layer_scale = backbone.get('layer_scale')
    names = {(768, 12): 'base', (1024, 24): 'large', 'b': 'base', 'l': 'large'}
    if isinstance(arch, dict):
        depth = arch.get('num_layers')
        arch = names.get((arch.get('embed_dims'), depth), 'other')
    else:
        arch = names.get(arch, arch)
        depth = 24 if arch == 'large' else 12
    relative = f'relative, {relative.replace("_", " ")}' if relative else None
    positions = filter(None, ['absolute' if absolute else None, relative])
    return dict(
        arch=arch,
        positions=' and '.join(positions) or 'none',
        layer_scale=layer_scale or OFF,
        variant=VARIANTS.get((bool(absolute), bool(relative), bool(layer_scale)), 'mixed'),
        frozen=backbone.get('frozen_stages', -1) == depth,
        drop_path=backbone.get('drop_path_rate', 0.0),
        image_size=size,
        patch_grid=size / backbone.get('patch_size', 16),
    )


def _summarize_parts(tree: object) -> dict:
    found = {}
    for setting, (name, arguments) in SUMMARIZED_TRANSFORMS.items():
        part = find(tree, name)
        values = [part.get(argument) for argument in arguments] if part else [OFF]
        found[setting] = (values[0] or OFF) if len(values) == 1 else tuple(v or 0 for v in values)
    return found


def _summarize_crop(pipeline: object) -> dict:
    crop = find(pipeline, 'TwoViews', TWO_PICTURES, 'RandomResizedCrop')
    if not crop:
        return {}
    ours, stock = kind(crop) == 'TwoViews', kind(crop) == 'RandomResizedCrop'
    method = crop.get('interpolation', 'bicubic' if ours else 'bilinear')
    antialiased = ours or crop.get('backend') == 'pillow'
    return dict(
        image_size=_first(crop.get('scale') if stock else crop.get('size', 224)),
        crop_scale=crop.get('crop_ratio_range' if stock else 'scale', (0.08, 1.0)),
        crop_ratio=crop.get('aspect_ratio_range' if stock else 'ratio', (3 / 4, 4 / 3)),
        interpolation=method if antialiased else f'{method}, not antialiased',
    )


def _summarize_masking(model: dict, pipeline: object, image_size: int) -> dict:
    target, head = model.get('target') or model.get('target_generator'), model.get('head') or {}
    pixels, recover = kind(target) == 'PixelTarget', target.get('recover', 'masked')
    tokenizer = DALLE if kind(target) == 'DALL-E' else target.get('tokenizer') or {}
    is_vqkd = 'VQKD' in (kind(target), kind(tokenizer))
    views, token_size = find(pipeline, 'TwoViews', TWO_PICTURES), None
    if views and not pixels:
        token_size = views.get('token_size', views.get('second_size', 112))
    has_num_masked = 'target' in model and recover == 'masked'
    stride = 2 ** (tokenizer.get('groups', 4) - 1)
    vocabulary = tokenizer.get('vocab_size', 8192 if is_vqkd else None)
    found = dict(
        method='v2' if is_vqkd else 'v1',
        aggregation=_summarize_aggregation(model),
        target='pixels' if pixels else 'tokens',
        recover=recover,
        vocabulary=3 * target.get('patch_size', 16) ** 2 if pixels else vocabulary,
        predicted=head.get('out_channels', head.get('num_embed')),
        model_num_masked=model.get('num_masked', 75) if has_num_masked else None,
        token_size=token_size,
        token_grid=token_size / stride if token_size and 'groups' in tokenizer else None,
        patch_grid=image_size / model['backbone'].get('patch_size', 16),
        mask=OFF,
    )
    if mask := find(pipeline, *MASKS):
        name, number, grid, block, smallest = MASKS[kind(mask)]
        found |= dict(
            mask=name,
            num_masked=mask.get(number, 75),
            mask_grid=_first(mask.get(grid, 14)),
            min_block=mask.get(block, smallest),
        )
    return found


def _summarize_aggregation(model: dict) -> tuple[int, int] | str:
    """Return (block, further blocks) of patch aggregation: ours, or mmpretrain's neck."""
    if own := model['backbone'].get('patch_aggregation'):
        return own['layer'], own.get('num_blocks', 2)
    if neck := find(model.get('neck'), 'BEiTV2Neck'):
        return neck.get('early_layers', 9), neck.get('num_layers', 2)
    return OFF


def _summarize_classifier(cfg: dict, model: dict) -> dict:
    head, test = model.get('head') or {}, cfg.get('val_dataloader')
    init = head.get('init_cfg') or model.get('init_cfg')
    normal = find(init, 'TruncNormal', 'Normal')
    default = None if find(init, 'Pretrained') else 0.01  # LinearClsHead's own
    backbone, edge, center = model['backbone'], find(test, 'ResizeEdge'), find(test, 'CenterCrop')
    is_frozen = backbone.get('frozen_stages', -1) > 0
    return dict(
        out_indices=backbone.get('out_indices', -1) if is_frozen else None,
        head_std=normal.get('std') if normal else default,
        test_crop=_first(center['crop_size']) / edge['scale'] if edge and center else None,
    )


def _summarize_segmentor(model: dict, pipeline: object) -> dict:
    head = model['decode_head']
    name = kind(head[-1] if isinstance(head, list) else head)
    names = dict(SETRPUPHead='SETR-PUP', SETRUPHead='SETR-PUP', UPerHead='UPerNet')
    return dict(
        head=names.get(name, name),
        image_size=_first((find(pipeline, 'RandomCrop') or {}).get('crop_size')),
        out_indices=model['backbone'].get('out_indices'),
        stride=_first(get(model, 'test_cfg', 'stride')) or 'whole image',
    )


def _summarize_tokenizer(cfg: dict, model: dict) -> dict:
    hooks = cfg.get('custom_hooks') or []
    annealed = {node.get('attribute'): node for node in hooks if kind(node) == 'Anneal'}
    ends = {name: (node.get('end'), node.get('iters')) for name, node in annealed.items()}
    ema = find(hooks, 'EMAHook')
    if kind(model) == 'VQKD':
        pipeline = get(find_dataset(get(cfg, 'train_dataloader', 'dataset')), 'pipeline')
        found = dict(
            method='v2',
            arch=(model.get('encoder') or {}).get('arch', 'base'),
            vocabulary=model.get('vocab_size', 8192),
            code_dims=model.get('code_dims', 32),
            decay=model.get('decay', 0.99),
        )
        return found | _summarize_parts(pipeline) | _summarize_crop(pipeline)
    return dict(
        method='v1',
        vocabulary=model.get('vocab_size'),
        likelihood=model.get('likelihood', 'logit_laplace'),
        kl=ends.get('beta', OFF),
        temperature=ends.get('temperature', OFF),
        ema=1 - ema.get('momentum', 0.0002) if ema else OFF,
    )
