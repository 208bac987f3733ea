"""The chart library that a page carries: Vega, Vega-Lite and Vega-Embed as one script."""

from functools import cache

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@cache
def chart_library() -> str:
    """JavaScript that defines `vegaEmbed`, for an inline `<script type="module">`.

    It comes out of the package vl-convert-python, without a network, and is the same for every
    page of one version of that package.
    """
    from vl_convert import javascript_bundle

    return embeddable(javascript_bundle(_SNIPPET))


def embeddable(script: str) -> str:
    """A script without what would end, or change how a browser reads, its element."""
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--").replace("\r\n", "\n")
