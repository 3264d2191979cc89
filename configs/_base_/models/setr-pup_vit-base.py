# The paper's segmentor (table 14): plain ViT-B and SETR-PUP. The paper does not state the width of the decoder, the
# auxiliary heads or the feature maps. The width of the decoder and the number and weight of the auxiliary heads are SETR's;
# `out_indices` are those of the official UPerNet.
default_scope = 'mmseg'
norm_cfg = dict(type='SyncBN')
head = dict(
    type='beit_mm.SETRPUPHead', in_channels=768, channels=256, num_classes=150, norm_cfg=norm_cfg, align_corners=False)
auxiliary = dict(head, num_stages=2, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
model = dict(
    type='beit_mm.EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
        test_cfg=dict(size=(512, 512))),  # images smaller than the crop are padded to its size
    backbone=dict(
        type='beit_mm.BEiT',
        arch='base',
        img_size=512,
        patch_size=16,
        abs_pos_embed=True,
        out_type='featmap',
        out_indices=(3, 5, 7, 11),
        drop_path_rate=0.1),
    decode_head=dict(head, num_stages=4, in_index=3, loss_decode=dict(type='CrossEntropyLoss')),
    auxiliary_head=[dict(auxiliary, in_index=0), dict(auxiliary, in_index=1), dict(auxiliary, in_index=2)],
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
