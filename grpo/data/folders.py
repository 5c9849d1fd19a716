"""Which files a data path means: one, those of a glob, or those of a split of a folder (a hub layout, save_to_disk)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from glob import glob, has_magic
from pathlib import Path

from grpo.data.files import FORMS, kind_of
from grpo.errors import UserError, first_line

MOST_ENTRIES = 100_000  # of a folder; it holds more than data then


def is_path(path: str) -> bool:
    """Whether a data path is no hub name: it is there, or can only be meant as a file's."""
    no_name = path.startswith((".", "/", "~")) or path.count("/") > 1 or kind_of(Path(path)) is not None
    return no_name or "://" in path or has_magic(path) or Path(path).exists()


def find_files(path: str, split: str | None = None, subset: str | None = None) -> list[Path]:
    """The files of a data path, in the order in which their rows come. `split`: None, "train" where there are several.

    Raises:
        UserError: there are none, or files of several kinds; `split` or `subset` say nothing of this path.
    """
    place = Path(path).expanduser()
    if "://" in path:
        raise UserError(f"data '{path}': an address, and nothing is fetched: give the path of a file")
    if place.is_dir():
        splits = folder_splits(place, subset)
        chosen = split or "train"
        if chosen not in splits:
            has = ", ".join(splits) or "no data files"
            raise UserError(f"data '{path}': no split '{chosen}' in this folder (it has: {has}); give {FORMS}")
        return _of_one_kind(splits[chosen], path)
    for name, value in (("split", split), ("subset", subset)):
        if value is not None:
            raise UserError(
                f"data '{path}': '{name}' is of a folder or a hub data set and has no effect here; remove it"
            )
    if place.is_file() or not has_magic(path):
        return [place]
    files = every_file(path)
    if not files:
        raise UserError(f"data '{path}': no file fits this pattern")
    return _of_one_kind(files, path)


def every_file(path: str) -> list[Path]:
    """All files below a data path, whatever is read of them; none where there is no such path."""
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    found = _below(place) if place.is_dir() else (Path(file) for file in glob(str(place), recursive=True))
    return sorted(file for file in found if file.is_file())


def _below(folder: Path, hidden: bool = True) -> Iterator[Path]:
    """What is below a folder, but for the programs in it: virtual environments and node_modules. One look at each.

    Raises:
        UserError: it cannot be looked through, or that is no folder of data.
    """

    def unreadable(error: OSError) -> None:
        raise UserError(f"data '{folder}': {first_line(error)}") from error

    entries = 0
    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [
            name
            for name in folders
            if name != "node_modules"
            and (hidden or not name.startswith((".", "__")))
            and not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))
        ]
        entries += len(folders) + len(files)
        if entries > MOST_ENTRIES:
            raise UserError(
                f"data '{folder}': more than {MOST_ENTRIES:,} files in this folder: name the one that holds the data"
            )
        yield from (Path(place, name) for name in files if hidden or not name.startswith("."))


def folder_splits(folder: Path, subset: str | None = None) -> dict[str, list[Path]]:
    """{split: its files}; what is in no split by its name, or by the README, is `train`, as the hub has it."""
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {name: _saved(folder / name) for name in names}
    if (folder / "state.json").is_file():
        return {"train": _saved(folder)}
    from datasets.data_files import _get_data_files_patterns, resolve_pattern

    patterns = _configured(folder, subset)
    files_of: Callable[[str], list[str]] = partial(resolve_pattern, base_path=str(folder))
    try:
        if patterns is None:
            files_of = _matching(folder)
            patterns = _get_data_files_patterns(files_of)
        found = {split: [file for pattern in named for file in files_of(pattern)] for split, named in patterns.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"data '{folder}': no data files: {first_line(error)}; give {FORMS}") from error
    files = {
        str(split): [Path(file) for file in dict.fromkeys(names) if kind_of(Path(file))]
        for split, names in found.items()
    }
    return {split: named for split, named in files.items() if named}


def _matching(folder: Path) -> Callable[[str], list[str]]:
    """pattern -> files, as `datasets` has it, which would look through the whole folder for each of forty patterns."""
    from datasets.data_files import FILES_TO_IGNORE
    from fsspec.utils import glob_translate

    files = sorted(file.relative_to(folder).as_posix() for file in _below(folder, hidden=False) if file.is_file())
    names = [name for name in files if name.rpartition("/")[2] not in FILES_TO_IGNORE]
    if not names:
        raise FileNotFoundError("nothing is in it that is not hidden")

    def matching(pattern: str) -> list[str]:
        fits = re.compile(glob_translate(pattern)).match
        return [str(folder / name) for name in names if fits(name)]

    return matching


def _configured(folder: Path, subset: str | None) -> dict[str, list[str]] | None:
    """What the README of a hub data set says; None: nothing."""
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    card = folder / "README.md"
    data = DatasetCard.load(card).data if card.is_file() else DatasetCardData()
    configs = MetadataConfigs.from_dataset_card_data(data)
    name = subset or ("default" if "default" in configs else configs.get_default_config_name() if configs else None)
    if subset is not None and subset not in configs:
        has = ", ".join(configs) or "none"
        raise UserError(f"data '{folder}': its README.md has no configuration '{subset}' (it has: {has})")
    if len(configs) > 1 and name is None:
        raise UserError(f"data '{folder}': set subset, one of: {', '.join(configs)}")
    settings = configs[name or next(iter(configs))] if configs else {}
    patterns = settings.get("data_files")
    return {str(split): list(of) for split, of in sanitize_patterns(patterns).items()} if patterns else None


def _saved(folder: Path) -> list[Path]:
    """What `Dataset.save_to_disk` wrote."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"data '{folder}': not as save_to_disk leaves it: {first_line(error, typed=True)}") from error


def _of_one_kind(files: list[Path], path: str) -> list[Path]:
    kinds = sorted({kind_of(file) or file.suffix or file.name for file in files})
    if len(kinds) > 1:
        pattern = f"{path.rstrip('/')}/**/*{kinds[0]}" if Path(path).is_dir() else f"*{kinds[0]}"
        raise UserError(f"data '{path}': files of several kinds ({', '.join(kinds)}): say which, such as '{pattern}'")
    return files
