"""A run that reads its tokens from a cache learns the tokens of its own tokenizer, or does not begin."""

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...data.token_cache import TokenCache
from ...registry import HOOKS
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class CachedTokens(Hook):
    """Holds the tokenizer of each `token_cache` that a data set reads against the model's; ValueError if they differ.

    A model that was given no tokenizer takes over the cache's fingerprint. `launch.build_runner` adds this hook to every run.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        for cache in _caches(runner):
            target = getattr(unwrap_model(runner), 'target', None)
            if not hasattr(target, 'cached_fingerprint'):
                raise ValueError(
                    f'{cache.path} holds visual tokens, but the model predicts none: remove token_cache'
                )
            target.cached_fingerprint = cache.about['tokenizer']
            if cache.about['dtype'] != str(target.dtype):
                words = f'{cache.path} holds tokens read in {cache.about["dtype"]}, this run would read them in {target.dtype}'
                runner.logger.warning(f'{words}: a few in a hundred differ')

    def before_train(self, runner: Runner) -> None:
        self._compare(runner)

    def before_val(self, runner: Runner) -> None:
        self._compare(runner)

    def before_test(self, runner: Runner) -> None:
        self._compare(runner)

    def _compare(self, runner: Runner) -> None:
        for cache in _caches(runner):
            cache.check(dict(tokenizer=int(unwrap_model(runner).target_fingerprint)))


def _caches(runner: Runner) -> Iterator[TokenCache]:
    for loop in (
        runner._train_loop,
        runner._val_loop,
        runner._test_loop,
    ):  # a loop of no use here is still a dict
        cache = getattr(getattr(getattr(loop, 'dataloader', None), 'dataset', None), 'tokens', None)
        if cache is not None:
            yield cache
