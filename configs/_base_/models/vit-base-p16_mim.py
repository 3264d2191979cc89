# Masked image modeling with BEiT-B as the paper's tables 1, 3 and 4 have it: a plain ViT with learned absolute positions.
# The tokenizer has the shape of DALL-E's; a config names its weights.
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
        dtype='float16',  # as the official code on a GPU; on a CPU bfloat16, if it has it
        tokenizer=dict(type='DiscreteVAE', vocab_size=8192, width=256, groups=4, blocks=2, width_in=128)),
    head=dict(type='MIMHead', in_channels=768, out_channels=8192))
custom_hooks = [
    dict(type='Throughput', gflop_per_image=160),  # an image, with its tokens (docs/performance.md)
    dict(type='CompileBlocks')]  # on a GPU: about a minute to start, then 1.4 times as fast
