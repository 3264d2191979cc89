"""Compute the tokens of all crops once: `python tools/cache_tokens.py CONFIG --out FOLDER`."""

from beit_mm.engine.cache_tokens import main

if __name__ == '__main__':
    main()
