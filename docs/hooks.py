"""What mkdocs does beside rendering: figures into the pages, and the pictures of the results."""

from pathlib import Path

import figures
import reference
from jinja2 import Environment, StrictUndefined
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
_PAGES.globals |= vars(figures) | vars(reference)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Puts the figures of benchmarks/results where a page calls for them."""
    return _PAGES.from_string(markdown).render()


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the curves of every comparison, as results/<comparison>/curves.png."""
    for path in sorted(figures.RESULTS.glob("*/curves.png")):
        name = Path("results") / path.relative_to(figures.RESULTS)
        files.append(File.generated(config, name.as_posix(), abs_src_path=str(path)))
    return files
