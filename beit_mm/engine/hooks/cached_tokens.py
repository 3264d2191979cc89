"""Agreement of a token cache with the model that trains on it."""

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...data.token_cache import TokenCache
from ...registry import HOOKS
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class CachedTokens(Hook):
    """Hook that raises ValueError if a token cache was made by another tokenizer than the model's.

    A model without a tokenizer gets the fingerprint of the cache. `launch.build_runner` adds this
    hook to every run.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        for cache in _find_caches(runner):
            target = getattr(unwrap_model(runner), 'target', None)
            if not hasattr(target, 'cached_fingerprint'):
                raise ValueError(
                    f'{cache.path} holds visual tokens, but the model predicts none: '
                    'remove token_cache'
                )
            target.cached_fingerprint = cache.about['tokenizer']
            if cache.about['dtype'] != str(target.dtype):
                runner.logger.warning(
                    f'{cache.path} holds tokens computed in {cache.about["dtype"]}, this run would '
                    f'compute them in {target.dtype}: up to a few percent of the tokens differ'
                )

    def before_train(self, runner: Runner) -> None:
        for cache in _find_caches(runner):
            cache.check(dict(tokenizer=int(unwrap_model(runner).target_fingerprint)))

    before_val = before_test = before_train


def _find_caches(runner: Runner) -> Iterator[TokenCache]:
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        # A loop that is not used in this run is still a config.
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if cache := getattr(dataset, 'tokens', None):
            yield cache
