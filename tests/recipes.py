"""Settings of each recipe as stated by the paper and the official code."""

# lr, layer decay, epochs, warm-up epochs, batch, weight decay, drop path, mixup and cutmix
IMAGENET = {
    'vit-base-p16_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'vit-base-p16_layer-scale_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'vit-large-p16_8xb128-amp-coslr-50e_in1k': (1e-3, 0.75, 50, 5, 1024, 0.05, 0.2, True),
    'vit-base-p16_8xb64-amp-coslr-10e_in1k-384px': (2e-5, 0.85, 10, 1, 512, 1e-08, 0.1, True),
    'vit-large-p16_8xb64-amp-coslr-10e_in1k-384px': (2e-5, 0.9, 10, 1, 512, 1e-08, 0.2, True),
    'beit-base-p16_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'beit-large-p16_8xb128-amp-coslr-50e_in1k': (1e-3, 0.75, 50, 5, 1024, 0.05, 0.2, True),
    'beit-base-p16_in22k-pre_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'beit-large-p16_in22k-pre_8xb128-amp-coslr-50e_in1k': (1e-3, 0.75, 50, 5, 1024, 0.05, 0.2, True),
    'beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k': (2e-5, 0.85, 30, 5, 512, 1e-08, 0.1, False),
    'beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': (2e-5, 0.85, 30, 5, 512, 1e-08, 0.1, False),
    'beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k': (2e-5, 0.9, 30, 5, 512, 1e-08, 0.4, False),
    'beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': (2e-5, 0.9, 30, 5, 512, 1e-08, 0.4, False),
    'beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-512px': (2e-5, 0.9, 30, 5, 512, 1e-08, 0.4, False),
    'beit-base-p16_16xb256-amp-coslr-90e_in22k': (3e-3, 0.65, 90, 5, 4096, 0.05, 0.2, False),
    'beit-large-p16_16xb128-amp-coslr-90e_in22k': (2e-3, 0.75, 90, 5, 2048, 0.05, 0.2, False),
}  # fmt: skip
# lr, epochs, batch, weight decay, depth, index of the layer whose features are used (paper, app. D)
LINEAR_PROBE = {
    'vit-base-p16_linear-probe_8xb128-amp-coslr-50e_in1k': (4e-3, 50, 1024, 1e-4, 12, 9),
    'vit-large-p16_linear-probe_8xb128-amp-coslr-50e_in1k': (4e-3, 50, 1024, 1e-4, 24, 14),
}
# lr, layer decay, iterations, images an update, warm-up, drop path, crop, stride, out_indices
ADE20K = {
    'vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512': (1e-3, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512':
        (1e-3, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'beit-base_in22k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512':
        (1e-3, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'vit-base_upernet_8xb2-amp-160k_ade20k-512x512': (7e-4, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'vit-base_layer-scale_upernet_8xb2-amp-160k_ade20k-512x512':
        (7e-4, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'beit-base_in1k-ft_upernet_8xb2-amp-160k_ade20k-512x512':
        (3e-5, 0.9, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'beit-base_upernet_8xb2-amp-160k_ade20k-512x512': (7e-4, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640':
        (3e-5, 0.9, 160000, 16, 1500, 0.1, 640, 426, (3, 5, 7, 11)),
    'beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640':
        (2e-5, 0.95, 320000, 16, 3000, 0.2, 640, 426, (7, 11, 15, 23)),
}  # fmt: skip
