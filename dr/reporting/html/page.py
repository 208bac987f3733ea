"""The skeleton of every page: style, scripts, and a policy that forbids all else."""

import base64
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dr.reporting.html.library import chart_library, embeddable

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "dr.reporting.html"
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "style-src {style}; script-src {scripts}"
)


def render(template: str, **values: Any) -> str:
    """A template of this package as a page.

    All values are escaped. The page's content security policy names its own style and scripts by
    their digests, so that a browser runs no other and fetches nothing.
    """
    style, early, script = (_asset(name) for name in ("page.css", "theme.js", "page.js"))
    scripts = (early, chart_library(), script)
    policy = _POLICY.format(style=_source(style), scripts=" ".join(map(_source, scripts)))
    parts = {"style": style, "early": early, "library": chart_library(), "script": script}
    page = _environment().get_template(template)
    return page.render(
        policy=policy, **{name: _plain(part) for name, part in parts.items()}, **values
    )


def own_version() -> str:
    """The version of dr that writes a page."""
    try:
        return version("dr")
    except PackageNotFoundError:
        return "(not installed)"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    text = files(_PACKAGE).joinpath("templates", name).read_text(encoding="utf-8")
    return embeddable(text) if name.endswith(".js") else text


def _plain(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
