"""Where configs and tools lie, and how a user calls a tool: in a checkout or from a wheel."""

from pathlib import Path


def root() -> Path:
    """Return the folder of `model-index.yml` and `configs`, in a wheel or in a checkout."""
    package = Path(__file__).parents[1]
    return package / '.mim' if (package / '.mim').is_dir() else package.parent


def find_file(name: str) -> str:
    """Return the path of a file such as configs/quickstart/recipe.py.

    A file in the current folder comes first, then one in `root()`. Returns `name` if there is none.
    """
    installed = root() / name
    return str(installed) if not Path(name).exists() and installed.exists() else name


def is_checkout() -> bool:
    return (root() / 'setup.py').exists()


def command(tool: str) -> str:
    """Return how a user calls a tool: by its file in a checkout, else by the command beit-mm."""
    return f'python tools/{tool}.py' if is_checkout() else f'beit-mm {tool.replace("_", "-")}'
