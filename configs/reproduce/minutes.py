# Three ablations with two seeds, to see that tools/reproduce.py runs.
#   python tools/reproduce.py --scale minutes --jobs 2
# Hardware: two CPU cores, a few minutes. Expected result: no verdict, because two seeds cannot give a significant result.
_base_ = 'shapes.py'

seeds = 2
ablations = ['scratch', 'beit', 'pixels']
curves = []
steps = 300
pretrain = dict(whole=dict(train_cfg=dict(max_iters=steps, val_interval=steps)))
del steps
