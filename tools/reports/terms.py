"""What the numbers and words in a report mean."""

import re

# Logged values by the last part of their key.
VALUES = dict(
    # a tokenizer
    codes_used='codes that are the token of at least one patch',
    vocab_size='codes of the tokenizer',
    perplexity='as many codes, used equally often, have the same entropy',
    psnr='PSNR of the images decoded from tokens, dB',
    psnr_mean_color='PSNR of images of one mean color each, dB',
    reconstruction='how unlikely the decoder finds the pixels, nats per subpixel',
    kl='information in a token about its patch, nats',
    information='information in a token about its patch, nats',
    marginal_kl='distance of the use of the codes from equal use, nats',
    elbo='lower bound of the log-likelihood of the pixels, nats per subpixel; higher is better',
    cosine='cosine between decoded features and those of the teacher; at most 1',
    # pre-training
    val_loss='loss per masked token, nats (of pixels: mean squared error)',
    marginal_entropy='loss of a model that ignores the image, nats',
    token_entropy='entropy of the tokens in a batch',
    masked_accuracy='masked tokens that are predicted correctly, %',
    marginal_accuracy='correct if the most frequent token is always predicted, %',
    log_p_tokens='log-probability of the masked tokens, nats per image',
    log_p_pixels='log-probability of the pixels given the tokens, nats per image',
    eq3='sum of the two terms of equation 3 of the paper, nats per image',
    # classification and segmentation
    top1='images whose most likely class is correct, %',
    top5='images whose class is among the five most likely ones, %',
    aAcc='pixels that are correct, %',
    mIoU='mean over the classes of the IoU, %',
    mAcc='mean over the classes of the share of correct pixels, %',
    # Probe
    knn_top1='images whose nearest neighbors in the features of a layer are of their class, %',
    linear_top1='images that a linear classifier on the features of a layer gets right, %',
    effective_rank='number of directions in which the features of a layer vary',
    attention_distance='mean distance between attending and attended patches, pixels',
    predicted_codes_used='codes that are predicted for at least one patch',
    predicted_perplexity='as many codes, predicted equally often, have the same entropy',
    seconds='duration of a measurement',
)
WORDS = {
    'token': 'the code that the tokenizer gives a patch; pre-training predicts tokens of patches '
    'that are masked',
    'code': 'an entry of the vocabulary of the tokenizer',
    'nats': 'unit of entropy and of log-probability; 1 nat is 1.44 bits. With a loss of x nats per '
    'token, the model gives the true token the probability exp(−x), as a geometric mean',
    'entropy': 'how unpredictable a value is: 0 if it is always the same, ln n if n values are '
    'equally frequent',
    'perplexity': 'exp(entropy): as many codes, used equally often, have the same entropy',
    'PSNR': 'peak signal-to-noise ratio: how close an image is to the original. With 10 dB more, '
    'the squared error is a tenth',
    'IoU': 'intersection over union of a class: the number of its pixels in both the prediction '
    'and the truth, divided by the number in at least one of them',
    'mIoU': 'mean of the IoU of all classes',
    'top-1': 'share of the images whose most likely class is correct',
}


def find_words(*texts: str) -> dict[str, str]:
    """Return the meaning of each word of `WORDS` that occurs in texts, singular or plural."""
    text = ' '.join(texts)
    if 'mIoU' in text:
        text += ' IoU'
    return {w: meaning for w, meaning in WORDS.items() if re.search(rf'\b{w}s?\b', text)}
