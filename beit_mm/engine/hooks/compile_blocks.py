"""`torch.compile` of the Transformer blocks and the frozen tokenizer, one graph for all blocks so that it starts soon."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...models.block import Block
from ...models.targets import TokenTarget
from ...registry import HOOKS
from ...utils.arguments import check_choices
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class CompileBlocks(Hook):
    """`custom_hooks=[dict(type='beit_mm.CompileBlocks')]`; without a C++ compiler the log says so and all runs as ever.

    The same values but for rounding, and the same draws. (mmengine's own `compile=True` makes one graph of the whole step.)

    Args:
        backend: of `torch.compile`.
        cpu: on a CPU as well, where compiling takes minutes and gains less than a tenth; on a GPU a step takes 0.7 of the time.

    Raises ValueError for an unknown backend, TypeError for a `cpu` that is neither True nor False.
    """

    def __init__(self, backend: str = 'inductor', cpu: bool = False):
        check_choices(torch.compiler.list_backends(None), backend=backend)
        if not isinstance(cpu, bool):
            raise TypeError(f'cpu={cpu!r}: give True or False')
        self.backend, self.cpu = backend, cpu

    def before_train(self, runner: Runner) -> None:
        if not self.cpu and next(runner.model.parameters()).device.type == 'cpu':
            runner.logger.info(
                'nothing is compiled on a CPU: CompileBlocks with cpu=True does that'
            )
            return
        if self.backend == 'inductor' and (fault := no_compiler()):
            runner.logger.warning(f'nothing is compiled, and all runs more slowly: {fault}')
            return
        runner.logger.info(
            f'{compile_blocks(unwrap_model(runner), self.backend)} parts are compiled in the first iterations'
        )


def compile_blocks(model: torch.nn.Module, backend: str = 'inductor') -> int:
    """In place; parameters keep their names. How many parts."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.branches = torch.compile(block.branches, backend=backend)
    target = getattr(model, 'target', None)
    if not isinstance(target, TokenTarget):
        return len(blocks)
    target.compile(backend)
    return len(blocks) + 1


def no_compiler() -> str | None:
    """Why nothing can be compiled, in words; None where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # of a private class
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
