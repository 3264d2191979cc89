"""Computes the visual tokens of a pre-training config's crops once, for any number of runs: `python tools/tokenize.py CONFIG`."""

if __name__ == '__main__':
    from beit_mm.engine.tokenize import main

    main()
else:
    # Python puts the folder of a program first among its modules: what asks for `tokenize` in a tool of this folder means the
    # standard library's.
    import importlib.util
    import sys
    import sysconfig

    _spec = importlib.util.spec_from_file_location(
        'tokenize', f'{sysconfig.get_path("stdlib")}/tokenize.py'
    )
    sys.modules[__name__] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
