"""Names that users may have in their configs and that changed: old name → new name.

A key is a class, `Class.argument`, or a log key (as in `save_best`). An old name is an error that
says the new one.
"""

RENAMED = {
    # 0.2.0
    'AnyCheckpoint': 'ConvertCheckpoint',
    'GuardData': 'CheckSamples',
    'BlockwiseMask.budget': 'num_masked',
    'RandomMask.budget': 'num_masked',
    'SeededDataset.views': 'num_crops',
    'tokenizer/codes': 'tokenizer/vocab_size',
}
