# The paper in miniature, on two cores and without data: tokenizer → pre-training → classification → segmentation.
#   python tools/recipe.py run configs/quickstart/recipe.py
work_dir = 'work_dirs/quickstart'
seed = 1
prepare = ['python -m beit_mm.data.shapes data/quickstart --seed 1 --train 12000 --val 1000 --segmentation-train 200 '
           '--segmentation-val 500 --labels 200 500']

stages = [
    dict(name='tokenizer', config='configs/quickstart/tokenizer.py'),
    dict(
        name='pretrain',
        config='configs/quickstart/pretrain.py',
        weights={'model.target.checkpoint': 'tokenizer'},
        test=True),  # both terms of the paper's eq. 3
    dict(
        name='classification/pretrained',
        config='configs/quickstart/classification.py',
        weights={'model.backbone.init_cfg.checkpoint': 'pretrain'}),
    dict(
        name='segmentation/pretrained',
        config='configs/quickstart/segmentation.py',
        weights={'model.backbone.init_cfg.checkpoint': 'pretrain'}),
    dict(  # the paper's intermediate fine-tuning
        name='segmentation/intermediate',
        config='configs/quickstart/segmentation.py',
        weights={'model.backbone.init_cfg.checkpoint': 'classification/pretrained'}),
    dict(name='classification/scratch', config='configs/quickstart/classification.py'),
    dict(name='segmentation/scratch', config='configs/quickstart/segmentation.py'),
]
