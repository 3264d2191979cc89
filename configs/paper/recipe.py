# The experiments of the paper as one recipe: tokenizer → pre-training → classification of ImageNet-1k → segmentation of ADE20K with SETR-PUP,
# from pre-training and from classification (intermediate fine-tuning). Then UPerNet with the architecture of the official code.
#   python tools/recipe.py run configs/paper/recipe.py --launcher pytorch --gpus 8
#   python tools/recipe.py run configs/paper/recipe.py --launcher slurm --gpus 8 --partition NAME --dry-run > chain.sh
# Hardware: 8 GPUs of 80 GB for weeks, by estimate. With another number of GPUs add `--cfg-options auto_scale_lr.enable=True`.
# Expected results (paper, with DALL-E's tokenizer): 83.2 % top-1; mIoU 45.6 and 47.7 with SETR-PUP, 45.7 with UPerNet
work_dir = 'work_dirs/paper'
title = 'BEiT-B as in the paper'
note = 'The tokenizer is trained on ImageNet-1k alone, which costs 0.16 points of top-1 in the paper (app. C).'
seed = 0

backbone, tokenizer = 'model.backbone.init_cfg.checkpoint', {'model.target.checkpoint': 'tokenizer'}
pretrain, classification, segmentation = 'configs/pretrain', 'configs/classification', 'configs/segmentation'
further = 'model.head.init_cfg.checkpoint'  # 384 px starts from this classifier, too

stages = [
    dict(
        name='tokenizer',
        config='configs/tokenizer/dvae_64xb8-coslr-3000k_in1k-256px.py',
        options={'train_dataloader.batch_size': 64, 'optim_wrapper.type': 'AmpOptimWrapper'}),  # 512 images on 8 GPUs
    # Plain ViT: the paper's tables 1, 3 and 4.
    dict(
        name='pretrain/vit', config=f'{pretrain}/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k.py', weights=tokenizer,
        test=True),
    dict(
        name='classification/224px', config=f'{classification}/vit-base-p16_8xb128-amp-coslr-100e_in1k.py',
        weights={backbone: 'pretrain/vit'}),
    dict(
        name='classification/384px', config=f'{classification}/vit-base-p16_8xb64-amp-coslr-10e_in1k-384px.py',
        weights={backbone: 'classification/224px', further: 'classification/224px'}),
    dict(
        name='setr-pup/pretrained', config=f'{segmentation}/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py',
        weights={backbone: 'pretrain/vit'}),
    dict(
        name='setr-pup/intermediate', config=f'{segmentation}/vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512.py',
        weights={backbone: 'classification/224px'}),
    # Relative positions and LayerScale: table 5 and the official code.
    dict(
        name='pretrain/beit', config=f'{pretrain}/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k.py', weights=tokenizer,
        test=True),
    dict(
        name='upernet/pretrained', config=f'{segmentation}/beit-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
        weights={backbone: 'pretrain/beit'}),
]
