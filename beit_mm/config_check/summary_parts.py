"""What a config says about its model and its images, as a part of `facts`."""

from ..utils.config_tree import OFF, as_tuple, find, get, kind, side

DALLE = dict(vocab_size=8192, groups=4)  # mmpretrain's target generator


def backbone_facts(backbone: dict, scope: str | None) -> dict:
    arch, ours = backbone.get('arch', 'base'), kind(backbone) == 'BEiT'
    if ours and (
        'embed_dims' in backbone or (scope == 'mmseg' and '.' not in str(backbone['type']))
    ):  # mmseg's
        arch = dict(
            embed_dims=backbone.get('embed_dims', 768), num_layers=backbone.get('num_layers', 12)
        )
        absolute, relative = False, 'per_layer'
        layer_scale = backbone.get('init_values', 0.1)
    elif ours:
        absolute, relative = backbone.get('abs_pos_embed', False), backbone.get('rel_pos_bias')
        layer_scale = backbone.get('layer_scale')
    else:
        absolute, shared = (
            backbone.get('use_abs_pos_emb', False),
            kind(backbone) == 'BEiTPretrainViT',
        )
        relative = 'shared' if backbone.get('use_shared_rel_pos_bias', shared) else None
        relative = 'per_layer' if backbone.get('use_rel_pos_bias') else relative
        layer_scale = backbone.get('layer_scale_init_value', 0.1)
    depth = (
        arch.get('num_layers') if isinstance(arch, dict) else 24 if arch in ('l', 'large') else 12
    )
    sizes = {(768, 12): 'base', (1024, 24): 'large'}
    if isinstance(arch, dict):
        arch = sizes.get((arch.get('embed_dims'), arch.get('num_layers')), 'other')
    relative = relative and f'relative, {relative.replace("_", " ")}'
    variants = {
        (True, False, False): 'vanilla',
        (True, False, True): 'LayerScale',
        (False, True, True): 'BEiT+',
    }
    return dict(
        arch=dict(b='base', l='large').get(arch, arch),
        positions=' and '.join(filter(None, ['absolute' if absolute else None, relative]))
        or 'none',
        layer_scale=layer_scale or OFF,
        variant=variants.get((bool(absolute), bool(relative), bool(layer_scale)), 'mixed'),
        frozen=backbone.get('frozen_stages', -1) == depth,
        drop_path=backbone.get('drop_path_rate', 0.0),
        px=side(backbone.get('img_size', 224)),
        patch_grid=side(backbone.get('img_size', 224)) / backbone.get('patch_size', 16),
    )


def augmentation_facts(pipeline: object) -> dict:
    jitter, flip = find(pipeline, 'ColorJitter'), find(pipeline, 'RandomFlip')
    crop = (
        find(
            pipeline, 'TwoViews', 'RandomResizedCropAndInterpolationWithTwoPic', 'RandomResizedCrop'
        )
        or {}
    )
    found = dict(
        jitter=tuple(jitter.get(key, 0) for key in ('brightness', 'contrast', 'saturation'))
        if jitter
        else OFF,
        flip=flip.get('prob') if flip else OFF,
    )
    if not crop:
        return found
    sharp = kind(crop) == 'TwoViews' or crop.get('backend') == 'pillow'
    way = crop.get('interpolation', 'bicubic' if kind(crop) == 'TwoViews' else 'bilinear')
    return found | dict(
        px=side(crop.get('size', crop.get('scale') if kind(crop) == 'RandomResizedCrop' else 224)),
        crop_scale=as_tuple(
            crop.get(
                'crop_ratio_range' if kind(crop) == 'RandomResizedCrop' else 'scale', (0.08, 1.0)
            )
        ),
        crop_ratio=as_tuple(crop.get('aspect_ratio_range', crop.get('ratio', (3 / 4, 4 / 3)))),
        interpolation=way if sharp else f'{way}, not antialiased',
    )


def masked_modeling_facts(model: dict, pipeline: object, px: int) -> dict:
    target = model.get('target') or model.get('target_generator') or {}
    views = find(pipeline, 'TwoViews', 'RandomResizedCropAndInterpolationWithTwoPic') or {}
    mask = find(pipeline, 'BlockwiseMask', 'RandomMask', 'BEiTMaskGenerator')
    pixels, ours = kind(target) == 'PixelTarget', 'target' in model
    tokenizer = (
        (target.get('tokenizer') or {}) if ours else DALLE if kind(target) == 'DALL-E' else {}
    )
    patch, head = model['backbone'].get('patch_size', 16), model.get('head') or {}
    token_px = (
        None if pixels or not views else views.get('token_size', views.get('second_size', 112))
    )
    found = dict(
        target='pixels' if pixels else 'tokens',
        recover=target.get('recover', 'masked'),
        vocabulary=3 * target.get('patch_size', 16) ** 2 if pixels else tokenizer.get('vocab_size'),
        predicted=head.get('out_channels', head.get('num_embed')),
        num_masked=model.get('num_masked', 75) if ours else None,
        token_px=token_px,
        token_grid=token_px / 2 ** (tokenizer['groups'] - 1)
        if token_px and 'groups' in tokenizer
        else None,
        patch_grid=px / patch,
    )
    if not mask:
        return found | dict(mask=OFF)
    theirs = kind(mask) == 'BEiTMaskGenerator'
    blocks = dict(
        min_block=mask.get('min_num_patches' if theirs else 'min_block', 4 if theirs else 16)
    )
    return found | dict(
        mask='random' if kind(mask) == 'RandomMask' else 'blockwise',
        budget=mask.get('num_masking_patches' if theirs else 'num_masked', 75),
        mask_grid=side(mask.get('input_size' if theirs else 'grid', 14)),
        **(blocks if kind(mask) != 'RandomMask' else {}),
    )


def classifier_facts(cfg: dict, model: dict) -> dict:
    head, mixes = model.get('head') or {}, get(model, 'train_cfg', 'augments')
    train, test = get(cfg, 'train_dataloader'), get(cfg, 'val_dataloader')
    mixup, cutmix = find(mixes, 'Mixup'), find(mixes, 'CutMix')
    augment, erase = find(train, 'RandAugment'), find(train, 'RandomErasing')
    edge, center = find(test, 'ResizeEdge'), find(test, 'CenterCrop')
    init = head.get('init_cfg') or model.get('init_cfg')
    normal = find(init, 'TruncNormal', 'Normal')
    backbone = model['backbone']
    return dict(
        taps=as_tuple(backbone.get('out_indices', -1))
        if backbone.get('frozen_stages', -1) > 0
        else None,
        head_std=normal.get('std')
        if normal
        else None
        if find(init, 'Pretrained')
        else 0.01,  # LinearClsHead's own
        label_smoothing=get(find(head, 'LabelSmoothLoss'), 'label_smooth_val') or OFF,
        mixup=get(mixup, 'alpha') or OFF,
        cutmix=get(cutmix, 'alpha') or OFF,
        rand_augment=(augment.get('magnitude_level'), augment.get('magnitude_std'))
        if augment
        else OFF,
        erasing=get(erase, 'erase_prob') or OFF,
        test_crop=side(center['crop_size']) / edge['scale'] if edge and center else None,
    )


def segmentor_facts(model: dict, pipeline: object) -> dict:
    resize, crop = find(pipeline, 'RandomResize') or {}, find(pipeline, 'RandomCrop') or {}
    head = kind(
        model['decode_head'] if isinstance(model['decode_head'], dict) else model['decode_head'][-1]
    )
    return dict(
        head=dict(SETRPUPHead='SETR-PUP', SETRUPHead='SETR-PUP', UPerHead='UPerNet').get(
            head, head
        ),
        px=side(crop.get('crop_size')),
        taps=as_tuple(model['backbone'].get('out_indices')),
        resize_range=as_tuple(resize.get('ratio_range')),
        cat_max_ratio=crop.get('cat_max_ratio'),
        stride=side(get(model, 'test_cfg', 'stride')) or 'whole image',
    )


def tokenizer_facts(cfg: dict, model: dict) -> dict:
    anneal = {
        node.get('attribute'): node
        for node in cfg.get('custom_hooks') or []
        if kind(node) == 'Anneal'
    }
    ends = {name: (node.get('end'), node.get('iters')) for name, node in anneal.items()}
    ema = find(cfg.get('custom_hooks'), 'EMAHook')
    return dict(
        vocabulary=model.get('vocab_size'),
        likelihood=model.get('likelihood', 'logit_laplace'),
        kl=ends.get('beta', OFF),
        temperature=ends.get('temperature', OFF),
        ema=1 - ema.get('momentum', 0.0002) if ema else OFF,
        mean_std=None,
    )
