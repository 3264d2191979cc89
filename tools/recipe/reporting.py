"""Write summary.json and report.html when all stages of all seeds are finished."""

from pathlib import Path

from reports import summary

from .chain import Recipe
from .records import read_record, write_json


def write_reports(recipe: Recipe, work_dir: Path, folders: list[Path]) -> None:
    """Write a summary into each seed's folder, and summary and report of all into the work dir."""
    names = [stage.name for stage in recipe.stages]
    stage_dirs = [folder / name for folder in folders for name in names]
    if missing := [str(path) for path in stage_dirs if not read_record(path)]:
        print(f'Not finished yet: {", ".join(missing)}. The report follows the last stage.')
        return
    summaries = [summary.summarize(folder, names) for folder in folders]
    for folder, found in zip(folders, summaries, strict=True):
        write_json(folder / 'summary.json', found)
    combined = summaries[0] if len(summaries) == 1 else summary.over_seeds(summaries)
    write_json(work_dir / 'summary.json', combined)
    print(f'\n{summary.text_table(combined)}\n', flush=True)
    from reports import recipe_report  # imports torch and the host libraries, which takes seconds

    path = work_dir / 'report.html'
    recipe_report.write(path, folders[0], names, combined, recipe.title, recipe.note)
    print(f'Report with pictures: {path}')
