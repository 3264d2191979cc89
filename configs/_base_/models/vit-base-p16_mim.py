# Masked image modeling with BEiT-B as in the paper's tables 1, 3 and 4: a plain ViT with learned absolute positions.
# The tokenizer has DALL-E's architecture; each config names its weights.
default_scope = 'beit_mm'
model = dict(
    type='BEiTPretrainer',
    _scope_='beit_mm',  # mmpretrain's `get_model` builds by its own names
    num_masked=75,
    data_preprocessor=dict(
        type='MIMDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        type='BEiT',
        arch='base',
        img_size=224,
        patch_size=16,
        abs_pos_embed=True,
        mask_token=True,
        drop_path_rate=0.1),
    target=dict(
        type='TokenTarget',
        dtype='float16',  # as in the official code; a CPU uses bfloat16 if it supports it
        tokenizer=dict(type='DiscreteVAE', vocab_size=8192, width=256, groups=4, blocks=2, width_in=128)),
    head=dict(type='MIMHead', in_channels=768, out_channels=8192))
custom_hooks = [
    dict(type='Throughput', gflop_per_image=160),  # with tokens online (docs/performance.md)
    dict(type='CompileBlocks')]  # on a GPU: compiles for about a minute, then 1.4 times as fast
