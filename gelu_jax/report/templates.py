"""The templates in `assets/`: HTML is escaped by Jinja, Markdown and LaTeX cell by cell."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from gelu_jax.report.wording import counted, listed, ranged

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "–": "--", "≈": r"$\approx$",
    "<": "$<$", ">": "$>$", "\n": " ",
}  # fmt: skip
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "\n": " "}
_PROSE = {" = ": "\u00a0=\u00a0", " %": "\u00a0%", " ×": "\u00a0×"}  # no line ends before a unit


def render(name: str, **values: object) -> str:
    """Fills a template of `assets/`.

    Args:
      name: the file's name; what stands in an .html template is escaped.
      **values: what the template names.

    Returns:
      The text.

    Raises:
      jinja2.UndefinedError: the template names something that is not among the values.
    """
    return _ENVIRONMENT.get_template(name).render(values)


def _verbatim(name: str) -> Markup:
    """A file of `assets/` as it is, for the style and script elements."""
    source, *_ = _LOADER.get_source(_ENVIRONMENT, name)
    return Markup(source)


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in cell)


def _markdown(cell: str) -> str:
    return "".join(_MARKDOWN.get(sign, sign) for sign in cell)


def _prose(text: str) -> str:
    for plain, kept in _PROSE.items():
        text = text.replace(plain, kept)
    return text


_LOADER = PackageLoader("gelu_jax.report", "assets")
_ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_filters: dict[str, Any] = _ENVIRONMENT.filters
_filters.update(
    counted=counted, listed=listed, ranged=ranged,
    latex=_latex, markdown=_markdown, prose=_prose, verbatim=_verbatim,
)  # fmt: skip
# `tojson` escapes what could end a script element; order as given, and no NaN, which is not JSON
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
