# BEiT v2 as one recipe: VQ-KD → pre-training → ImageNet-21k (intermediate fine-tuning) → ImageNet-1k and ADE20K, from pre-training and from
# intermediate fine-tuning.
#   python tools/recipe.py run configs/paper_v2/recipe.py --launcher pytorch --gpus 8
#   python tools/recipe.py run configs/paper_v2/recipe.py --launcher slurm --gpus 8 --partition NAME --dry-run > chain.sh
# Hardware: 8 GPUs of 80 GB for weeks, by estimate. With another number of GPUs add `--cfg-options auto_scale_lr.enable=True`.
# Expected results (official code): 85.5 % top-1 and 53.1 mIoU after pre-training, 86.5 % and 53.5 after ImageNet-21k
work_dir = 'work_dirs/paper_v2'
title = 'BEiT v2 base'
note = 'The tokenizer learns from CLIP, which was trained on pairs of images and texts.'
seed = 0

backbone, tokenizer = 'model.backbone.init_cfg.checkpoint', {'model.target.checkpoint': 'tokenizer'}
pretrain, classification, segmentation = 'configs/pretrain', 'configs/classification', 'configs/segmentation'
upernet = 'upernet_8xb2-amp-160k_ade20k-512x512.py'

stages = [
    dict(name='tokenizer', config='configs/tokenizer/vqkd_clip-base-p16_8xb64-amp-coslr-100e_in1k.py', test=True),
    dict(
        name='pretrain', config=f'{pretrain}/beitv2_beit-base-p16_8xb256-amp-coslr-1600e_in1k.py', weights=tokenizer, test=True),
    dict(
        name='classification/pretrained', config=f'{classification}/beitv2-base-p16_8xb128-amp-coslr-100e_in1k.py',
        weights={backbone: 'pretrain'}),
    dict(
        name='upernet/pretrained', config=f'{segmentation}/beitv2-base_{upernet}', weights={backbone: 'pretrain'}),
    dict(
        name='intermediate', config=f'{classification}/beitv2-base-p16_32xb128-amp-coslr-90e_in21k.py',
        weights={backbone: 'pretrain'},
        options={'optim_wrapper.accumulative_counts': 4}),  # 4096 images per update on 8 GPUs
    dict(
        name='classification/intermediate', config=f'{classification}/beitv2-base-p16_in21k-ft_8xb128-amp-coslr-30e_in1k.py',
        weights={backbone: 'intermediate'}),
    dict(
        name='upernet/intermediate', config=f'{segmentation}/beitv2-base_in21k-ft_{upernet}', weights={backbone: 'intermediate'}),
]
