"""The verdict about a run follows from what it has logged, and each word is explained."""

import pytest
from reports.terms import find_words
from reports.verdict import judge

pytestmark = pytest.mark.any_stack

FALLING, FLAT = [3.0, 2.0, 1.0], [3.0, 2.9, 2.95]
TOKENIZER = dict(codes_used=400, vocab_size=512, psnr=20.0, psnr_mean_color=16.0)
MIM = dict(val_loss=4.5, marginal_entropy=6.0, masked_accuracy=8.0, marginal_accuracy=0.6)
CASES = {
    'a tokenizer': (FALLING, TOKENIZER, None, None, 'learns'),
    'few codes': (FALLING, TOKENIZER | dict(codes_used=51), None, None, 'collapsed'),
    'a tenth of the codes': (FALLING, TOKENIZER | dict(codes_used=52), None, None, 'learns'),
    'a mean color': (FALLING, TOKENIZER | dict(psnr=16.0), None, None, 'learns nothing'),
    'features as target': (FLAT, dict(codes_used=9, vocab_size=9, cosine=0.5), None, None, 'learns'),
    'codes alone': (FLAT, dict(codes_used=9, vocab_size=9), None, None, 'does not learn'),
    'equal features': (FALLING, MIM, 1.5, None, 'collapsed'),
    'a pre-training': (FLAT, MIM, 9.0, None, 'learns'),
    'loss of the marginal': (FALLING, MIM | dict(val_loss=5.95), 9.0, None, 'not better than the marginal'),
    'accuracy of the marginal': (FALLING, MIM | dict(masked_accuracy=0.6), 9.0, None, 'not better than the marginal'),
    'one token': (FALLING, MIM | dict(marginal_entropy=0.5), 9.0, None, 'nothing to predict'),
    'all tokens': (FALLING, {
        'val_loss_all': 2.0, 'marginal_entropy_all': 6.0, 'accuracy_all': 30.0, 'marginal_accuracy_all': 1.0
    }, None, None, 'learns'),
    'a loss that is not finite': ([1.0, float('nan')], MIM, 9.0, None, 'diverged'),
    'features of one direction': (FALLING, dict(top1=90.0), 1.5, 10, 'collapsed'),
    'a classifier': (FLAT, dict(top1=12.0), 3.0, 10, 'learns'),
    'a guessing classifier': (FALLING, dict(top1=11.0), 3.0, 10, 'not better than guessing'),
    'a segmentor': (FLAT, dict(mIoU=12.0, aAcc=80.0), None, 10, 'learns'),
    'one class': (FALLING, dict(mIoU=9.5), None, 10, 'not better than one class everywhere'),
    'pixels as target': (FALLING, dict(val_loss=0.5), None, None, 'learns'),
    'a flat loss': (FLAT, {}, None, 10, 'does not learn'),
    'a falling negative loss': ([-1.0, -2.0], {}, None, None, 'learns'),
    'a rising negative loss': ([-2.0, -1.0], {}, None, None, 'does not learn'),
    'a log of one line': ([1.0], {}, None, None, 'too short to judge'),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_the_first_rule_that_applies_is_the_verdict(case):
    *logged, word = CASES[case]
    verdict = judge(*logged)
    assert verdict.word == word and verdict.is_good == (word == 'learns')


def test_a_verdict_names_the_numbers_that_it_compares():
    assert judge(FALLING, TOKENIZER).reason == (
        'decoded images are 4.0 dB better than one mean color per image, and 400 of 512 codes are used'
    )
    assert judge(FALLING, MIM).reason == (
        'the loss is 4.50 nats per token, that of ignoring the image 6.00'
    )
    assert judge(FALLING, dict(mIoU=30.0), num_classes=10).reason == (
        'mIoU is 30.0 %, one class everywhere has at most 10.0 %'
    )


def test_words_that_occur_are_explained_once():
    assert list(find_words('6 nats per token', 'codes')) == ['token', 'code', 'nats']
    assert list(find_words('mIoU 20 %')) == ['IoU', 'mIoU'] and list(find_words('IoU')) == ['IoU']
    assert not find_words('decode', 'tokenizer')
