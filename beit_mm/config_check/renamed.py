"""Names in users' configs that changed: old name → new name, or 'removed' with the reason.

A key is a class, `Class.argument`, `Class.argument=value`, or a log key (as in `save_best`). An
old name in a config is an error that says the new one.
"""

RENAMED = {
    # 0.2.0
    'AnyCheckpoint': 'ConvertCheckpoint',
    'GuardData': 'CheckSamples',
    'codes': 'codes_used',
    'data_wait': 'data_time_frac',
    'rss': 'peak_rss_mib',
    'BlockwiseMask.budget': 'num_masked',
    'RandomMask.budget': 'num_masked',
    'SeededDataset.views': 'num_crops',
    'DiscreteVAE.straight_through': 'removed: no recipe uses it',
    "DiscreteVAE.likelihood='l1'": 'removed: choose logit_laplace or mse',
    'MIMHead.init_cfg': 'removed: the head initializes its own weights',
    'InitCodebook.images': 'num_images',
    'Probe.by_epoch': 'removed: set interval in iterations',
    'Probe.images': 'num_images',
    'Probe.measures': 'removed: the probe measures what the model and the images allow',
    'Throughput.gflop': 'gflop_per_image',
    'Throughput.peak': 'peak_tflops',
    'mim/pixel_term': 'mim/log_p_pixels',
    'mim/token_term': 'mim/log_p_tokens',
    'tokenizer/codes': 'tokenizer/vocab_size',
}


def explain_renamed(name: str) -> str | None:
    """Return what became of an old name, None for any other name."""
    new = RENAMED.get(name)
    return new if new is None or new.startswith('removed') else f'renamed: write {new!r}'
