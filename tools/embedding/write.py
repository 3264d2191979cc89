"""Feature files: NumPy, CSV and Parquet."""

import csv
from pathlib import Path

import numpy as np

FILE_FORMATS = ('.npz', '.csv', '.parquet')


def check_format(path: Path, feature: str) -> None:
    """Raise ValueError for a suffix that cannot hold the features, ImportError without pyarrow."""
    if path.suffix not in FILE_FORMATS:
        raise ValueError(f'--out {path}: expected a file that ends with {", ".join(FILE_FORMATS)}')
    if feature == 'map' and path.suffix != '.npz':
        raise ValueError(f'--out {path}: maps have an array per image, expected a file .npz')
    if path.suffix == '.parquet':
        _import_pyarrow()


def write_features(path: Path, names: list[str], features: np.ndarray) -> None:
    """Write the names and features [N, …] of images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npz':
        np.savez(path, names=names, features=features)
    elif path.suffix == '.csv':
        with path.open('w', encoding='utf-8', newline='') as file:
            rows = csv.writer(file)
            rows.writerow(['name', *range(features.shape[1])])
            for name, values in zip(names, features.tolist(), strict=True):
                rows.writerow([name, *(f'{value:.7g}' for value in values)])
    else:
        arrow, parquet = _import_pyarrow()
        values = arrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
        parquet.write_table(arrow.table(dict(name=names, feature=values)), path)


def _import_pyarrow():
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install pyarrow') from error
    return pyarrow, parquet
