# All ablations of the paper with ViT-S on 100 000 drawn images of 112 px, with the paper's grid of 14×14 patches.
#   python tools/reproduce.py --scale gpu --jobs N   # N GPUs, a seed on each
# Hardware: one GPU of 40 GB for about a day per seed, by estimate. Expected result: none, because this scale has not been run. Its learning
# rates are guesses between those of the quickstart and the paper.
_base_ = 'shapes.py'

seeds = 6
ablations = [
    'scratch', 'beit', 'random-mask', 'pixels', 'pixels-random-mask', 'recover-all', 'no-mask', 'longer', 'intermediate',
    'other-tokenizer', 'layer-scale', 'relative', 'quarter', 'sixteenth', 'ceiling', 'floor']
data = 'data/reproduce-gpu'
prepare = [
    'python tools/draw_shapes.py {data} --size 112 --wrapped --seed 1 --train 100000 --val 5000 --segmentation-train 20000 '
    '--segmentation-val 2000 --labels 200 1000 2000 10000'
]
steps, batch = 20000, 256
warmup = steps // 20
note = 'The runs use drawn scenes of 112 px and ViT-S. They say nothing about photographs.'
arch = dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536)
workers = dict(num_workers=8, persistent_workers=True)
half = dict(type='AmpOptimWrapper', dtype='bfloat16')

tokenizers = {
    'tokenizer': dict(config='configs/quickstart/tokenizer_112.py'),
    'other-tokenizer': dict(config='configs/quickstart/tokenizer_112.py'),
}
pretrain = dict(
    parts=dict(
        BEiTPretrainer=dict(num_masked=75),
        BEiT=dict(arch=arch, img_size=112, patch_embed_std=0.02, drop_path_rate=0.1),
        MIMHead=dict(in_channels=384),
        BlockwiseMask=dict(grid=14, num_masked=75, min_block=16),
        RandomMask=dict(grid=14, num_masked=75),
        TwoViews=dict(size=112, token_size=56),
        ResizeEdge=dict(scale=112),
        CenterCrop=dict(crop_size=112)),
    whole=dict(
        train_dataloader=dict(batch_size=batch, **workers),
        val_dataloader=dict(batch_size=250, **workers),
        test_dataloader=dict(batch_size=250, **workers),
        optim_wrapper=dict(**half, optimizer=dict(lr=1.5e-3)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=warmup),
            dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup, eta_min=1e-5)],
        auto_scale_lr=dict(base_batch_size=batch),
        train_cfg=dict(max_iters=steps, val_interval=steps // 10)))


def schedule(steps, every, warmup):
    """Return options for a fine-tuning of `steps` steps, validated after every `every` steps."""
    return {
        'train_cfg.max_iters': steps, 'train_cfg.val_interval': every, 'param_scheduler.0.end': warmup,
        'param_scheduler.1.begin': warmup, 'param_scheduler.1.end': steps, 'default_hooks.checkpoint.interval': 10**9}


tuned = {
    **{f'model.backbone.arch.{key}': value for key, value in arch.items()}, 'model.backbone.patch_embed_std': 0.02,
    'model.backbone.drop_path_rate': 0.1, 'train_dataloader.num_workers': 8, 'train_dataloader.persistent_workers': True}
file = 'train_dataloader.dataset.dataset.ann_file'
lr = 'optim_wrapper.optimizer.lr'
decay, head = 'optim_wrapper.paramwise_cfg.layer_decay_rate', 'optim_wrapper.paramwise_cfg.head_lr_mult'
patchwise = {'model.backbone.type': 'beit_mm.PatchwiseBEiT'}


def kinds(scratch, pretrained, annotations):
    """Return a task's kinds of fine-tuning. `ceiling` and `floor` show the limits of the data set: all labels, 20 000 steps."""
    long = {**schedule(20000, 2000, 500), file: annotations}
    return dict(
        scratch=scratch, pretrained=pretrained, ceiling={**pretrained, **long}, floor={**scratch, **long, **patchwise})


classification = dict(
    _delete_=True,
    config='configs/quickstart/classification_112.py',
    options={**tuned, **schedule(4000, 200, 200), 'train_dataloader.batch_size': 128, 'model.head.in_channels': 384},
    labels={'1000': {file: 'meta/train_1000.txt'}, '10000': {file: 'meta/train_10000.txt'}, '100000': {file: 'meta/train.txt'}},
    main='10000',
    kinds=kinds(scratch={lr: 1e-3}, pretrained={lr: 1e-3, decay: 0.75}, annotations='meta/train.txt'))
segmentation = dict(
    _delete_=True,
    config='configs/quickstart/segmentation_112.py',
    options={**tuned, **schedule(4000, 200, 200), 'train_dataloader.batch_size': 32, 'model.decode_head.in_channels': 384},
    labels={'200': {file: 'training_200.txt'}, '2000': {file: 'training_2000.txt'}, '20000': {file: ''}},
    main='2000',
    kinds=kinds(
        scratch={lr: 1e-3, head: 10}, pretrained={lr: 1e-3, decay: 0.75, head: 10}, annotations=''))

# These variables are not keys of a scale.
del steps, warmup, batch, arch, workers, half, tuned, file, lr, decay, head, patchwise
