"""Draw the imports between the folders of the package: docs/imports.svg, from grimp's graph of the imports.

Rows and columns are the layers of the import contract in pyproject.toml, the highest first. A dot means that the row
imports the column. Imports that point down are above the diagonal; any other import is an error.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PACKAGE = "extembed_cli"
CELL, LEFT, TOP, FOOT = 30, 96, 92, 34

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .card { fill: #ffffff; stroke: #d0d7de }
    .grid { stroke: #e3e7eb }
    .layer { stroke: #8a8f98 }
    .self { fill: #e3e7eb }
    .dot { fill: #2f7de1 }
    .small { font-size: 11.5px; fill: #57606a }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .card { fill: #161b22; stroke: #30363d }
      .grid { stroke: #262c34 }
      .layer { stroke: #6e7681 }
      .self { fill: #30363d }
      .dot { fill: #6cb0ff }
      .small { fill: #9aa4af }
    }"""


def layers() -> list[list[str]]:
    """Return the folders of each layer, the highest first, from the contract that import-linter checks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(each for each in settings["contracts"] if each["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def imports(names: list[str]) -> set[tuple[str, str]]:
    """Return pairs (importer, imported) of folders; raise if a folder is in no layer."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    there = {child.partition(".")[2] for child in graph.find_children(PACKAGE)} - {"__main__"}
    if there != set(names):
        raise SystemExit(f"in the package or in a layer, but not in both: {sorted(there ^ set(names))}")
    return {
        (importer, imported)
        for importer in names
        for imported in names
        if importer != imported
        and graph.direct_import_exists(
            importer=f"{PACKAGE}.{importer}", imported=f"{PACKAGE}.{imported}", as_packages=True
        )
    }


def drawing() -> str:
    """Return the matrix as SVG."""
    of_layers = layers()
    names = [name for layer in of_layers for name in layer]
    pairs = imports(names)
    depth = {name: at for at, layer in enumerate(of_layers) for name in layer}
    upward = sorted(f"{a} -> {b}" for a, b in pairs if depth[a] >= depth[b])
    if upward:
        raise SystemExit(f"imports that do not point down: {', '.join(upward)}")
    side = CELL * len(names)
    width, height = LEFT + side + 20, TOP + side + FOOT
    title = "Imports between the folders of extembed_cli"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-labelledby="title">',
        f'  <title id="title">{title}: every one points to a lower layer</title>',
        f"  <style>{STYLE}\n  </style>",
        f'  <rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    edges = [0]
    for layer in of_layers:
        edges.append(edges[-1] + len(layer))
    for at in range(len(names) + 1):
        kind = "layer" if at in edges else "grid"
        x, y = LEFT + at * CELL, TOP + at * CELL
        parts.append(f'  <path class="{kind}" d="M{LEFT} {y}H{LEFT + side}M{x} {TOP}V{TOP + side}" fill="none"/>')
    for row, name in enumerate(names):
        middle = TOP + row * CELL + CELL // 2
        x = LEFT + row * CELL
        parts.append(f'  <rect class="self" x="{x + 1}" y="{middle - CELL // 2 + 1}" width="28" height="28"/>')
        parts.append(f'  <text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{name}</text>')
        parts.append(f'  <text transform="translate({x + CELL // 2 + 4} {TOP - 8}) rotate(-60)">{name}</text>')
        for column, other in enumerate(names):
            if (name, other) in pairs:
                parts.append(
                    f'  <circle class="dot" cx="{LEFT + column * CELL + CELL // 2}" cy="{middle}" r="6">'
                    f"<title>{name} imports {other}</title></circle>"
                )
    note = "A dot: the folder of the row imports that of the column. Strong lines part the layers."
    parts += [f'  <text class="small" x="{LEFT - 84}" y="{TOP + side + 22}">{note}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(drawing(), end="")
