# The paper's claims in 2 h 27 min on two cores with AVX2: Shapes at 64 px, a network of three blocks.
#   python tools/reproduce.py --scale hour --jobs 2 --out docs
# Learning rates and numbers of steps were found on seed 0, which is not reported.
_base_ = 'shapes.py'

seeds = 6
ablations = ['scratch', 'beit', 'random-mask', 'pixels', 'recover-all', 'no-mask', 'intermediate', 'quarter', 'sixteenth']
