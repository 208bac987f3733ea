"""Reports as one HTML file each, which opens from disk and asks nothing of a network.

Charts are Vega-Lite specifications, drawn as SVG by the Vega libraries that the page carries;
pages are Jinja2 templates with autoescape. What is read are run folders, nothing else.
"""
