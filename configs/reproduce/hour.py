# The paper's claims on drawn scenes of 64 px, with a network of three blocks and six seeds.
#   python tools/reproduce.py --scale hour --jobs 2 --out docs
# Hardware: two CPU cores with AVX2, 2 h 27 min. Result: docs/results.md. Learning rates and numbers of steps were found on seed 0, which is
# not reported.
_base_ = 'shapes.py'

seeds = 6
ablations = ['scratch', 'beit', 'random-mask', 'pixels', 'recover-all', 'no-mask', 'intermediate', 'quarter', 'sixteenth']
