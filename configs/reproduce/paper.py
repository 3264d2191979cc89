# The ablations at the paper's size: for each, 300 epochs of pre-training on ImageNet-1k, 100 epochs of classification, and 160 000 updates of
# SETR-PUP on ADE20K. Training from scratch uses the same fine-tunings. DeiT's recipe, with which the paper compares, is not included.
#   python tools/reproduce.py --scale paper --ablations scratch beit pixels --seeds 1 --launcher pytorch --gpus 8 --dry-run
# Hardware: 8 GPUs of 80 GB, for months; ablations and seeds run one after the other. Expected result: the paper's table 4.
data = 'data'
seeds = 6
ablations = [
    'scratch', 'beit', 'random-mask', 'pixels', 'pixels-random-mask', 'recover-all', 'no-mask', 'longer', 'intermediate',
    'other-tokenizer', 'layer-scale', 'relative']
note = (
    'The runs use ImageNet-1k and ADE20K. The tokenizer is trained on ImageNet-1k alone. In the paper (app. C) this costs 0.16 points of top-1.')
comparison = 'All ablations pre-train for 300 epochs, unless the name says otherwise.'
tokenizer = 'configs/tokenizer/dvae_64xb8-coslr-3000k_in1k-256px.py'
batch = {'train_dataloader.batch_size': 64, 'optim_wrapper.type': 'AmpOptimWrapper'}  # 512 images on 8 GPUs
tokenizers = {
    'tokenizer': dict(config=tokenizer, options=batch),
    'other-tokenizer': dict(
        config=tokenizer,
        options={**batch, 'model.vocab_size': 2048, 'val_evaluator.vocab_size': 2048, 'test_evaluator.vocab_size': 2048},
        parts=dict(DiscreteVAE=dict(vocab_size=2048), MIMHead=dict(out_channels=2048))),
}
pretrain = dict()
start = 'model.backbone.init_cfg.checkpoint'
classification = dict(
    config='configs/classification/vit-base-p16_8xb128-amp-coslr-100e_in1k.py',
    labels={'all': {}},
    main='all',
    kinds=dict(scratch={start: None, 'optim_wrapper.paramwise_cfg.layer_decay_rate': 1.0}, pretrained={}))
segmentation = dict(
    config='configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py',
    labels={'all': {}},
    main='all',
    kinds=dict(scratch={start: None, 'optim_wrapper.paramwise_cfg.layer_decay_rate': 1.0}, pretrained={}))

# These variables are not keys of a scale.
del tokenizer, batch, start
