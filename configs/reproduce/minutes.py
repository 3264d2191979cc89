# A trial run of a few minutes on two cores. Two seeds cannot give a significant result.
#   python tools/reproduce.py --scale minutes --jobs 2
_base_ = 'shapes.py'

seeds = 2
ablations = ['scratch', 'beit', 'pixels']
curves = []
pretrain = dict(whole=dict(train_cfg=dict(max_iters=300, val_interval=300)))
