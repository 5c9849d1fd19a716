"""Functions named by import path in a config: one place that finds them and says what failed."""

import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any, NoReturn

from grpo.errors import UserError, nearest

OURS = ("grpo", "rewards", "stages")


def import_path(path: str, what: str = "import path") -> Any:
    """The object at ``package.module.name``; the folder the command runs in is importable, after all that is installed:
    a ``torch.py`` there must not take torch's place.

    Raises `UserError` naming the part that failed: no such module, an error while importing it, or no such name in it.
    """
    try:
        return _import(path, what)
    except UserError as error:
        top = path.partition(".")[0]
        if top in OURS and Path(f"{top}.py").is_file():
            _refuse_taken(path, what, "this program", error)
        raise


def _refuse_taken(path: str, what: str, by: str, error: Exception | None = None) -> NoReturn:
    top = path.partition(".")[0]
    file = f"{top}.py" if Path(f"{top}.py").is_file() else f"{top}/"
    taken = f"'{file}' in {os.getcwd()} cannot be used, the name is taken by {by}: rename it"
    raise UserError(f"{what} '{path}': {taken}") from error


def _import(path: str, what: str) -> Any:
    module_name, _, name = path.rpartition(".")
    if not module_name or not name:
        raise UserError(f"{what} '{path}': write it as package.module.name")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    top = module_name.partition(".")[0]
    if top not in OURS and (Path(f"{top}.py").is_file() or Path(top, "__init__.py").is_file()):
        origin = _origin(top)
        installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
        if not Path(origin).is_file() or any(Path(origin).is_relative_to(place) for place in installed):
            _refuse_taken(path, what, f"'{origin}'")
    module: Any
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        outer, _, inner = module_name.rpartition(".")
        module = getattr(sys.modules.get(outer), inner, None)
        if inspect.isclass(module) and error.name == module_name:
            return _attribute(module, f"class '{module_name}'", name, f"{what} '{path}'")
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(f"{what} '{path}': no module named '{error.name}' (looked in {here} too)") from error
        raise UserError(f"{what} '{path}': importing it needs the missing module '{error.name}'") from error
    except Exception as error:
        raise UserError(
            f"{what} '{path}': importing '{module_name}' failed: {type(error).__name__}: {error}"
        ) from error
    return _attribute(module, f"module '{module_name}'", name, f"{what} '{path}'")


def _attribute(holder: Any, called: str, name: str, where: str) -> Any:
    if not hasattr(holder, name):
        hint = nearest(name, [item for item in dir(holder) if not item.startswith("_")])
        raise UserError(f"{where}: {called} has no '{name}'{hint}")
    return getattr(holder, name)


def _origin(module: str) -> str:
    """The file of a top-level module, as an import finds it; "built-in" or the like where it has none."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # it is loaded, and does not say
        spec = None
    return (spec and spec.origin) or "built-in"
