"""A training on one page: its pictures and last figures in a single HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from amaru.errors import ReportError
from amaru.learning.visualize import Standing, TrainingRun, last_figures
from amaru.readiness.markdown import number, plain, share
from amaru.readiness.training_plots import Picture, draw, of_what

PAGE = "training.html"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem }
p { color: #666; margin-top: .2rem }
img { width: 100%; height: auto; border: 1px solid #e6e6e6; border-radius: 4px }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; padding: .25rem 1.4rem .25rem 0; border-bottom: 1px solid #e6e6e6; font-weight: normal }
td { text-align: right; font-variant-numeric: tabular-nums }
"""
_ROWS: tuple[tuple[str, str], ...] = (
    ("avg_reward", "reward, mean of the agents"),
    ("utility", "utility per request"),
    ("fill_rate", "requests served"),
    ("avg_cost", "USD per served request"),
    ("avg_latency", "ms per served request"),
    ("epsilon", "requests placed at random (ε)"),
    ("q_table_size", "entries in the table"),
)
_SHARES = ("fill_rate", "epsilon")
_NO_BASELINE = (
    "For the policy beside the best rule and the references, run <code>amaru evaluate</code> and name its JSON with"
    " <code>--baseline</code>."
)


def write(run: TrainingRun, standings: Sequence[Standing], directory: Path) -> list[Path]:
    """Draw ``run`` into ``directory``: PNG files and ``training.html``; returns their paths.

    All is drawn beside its place first: where anything fails, no file of an earlier run is touched.

    Raises
    ------
    ReportError
        The directory cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".training-", dir=directory) as name:
            drafts = Path(name)
            pictures = draw(run, standings, drafts)
            (drafts / PAGE).write_text(page(run, standings, pictures, drafts), encoding="utf-8")
            names = [*(picture.name for picture in pictures), PAGE]
            for file in names:
                os.replace(drafts / file, directory / file)  # noqa: PTH105 - as everywhere in amaru
    except OSError as error:
        why = error.strerror or str(error)
        raise ReportError(f"cannot write pictures into {directory}: {why}; name another with --out") from error
    return [directory / file for file in names]


def page(run: TrainingRun, standings: Sequence[Standing], pictures: Sequence[Picture], directory: Path) -> str:
    """The page; ``directory`` is where ``pictures`` lie, which are put inside."""
    figures = last_figures(run)
    rows = [(words, _cell(name, figures[name])) for name, words in _ROWS if name in figures]
    table = "\n".join(f"<tr><th>{html.escape(words)}</th><td>{html.escape(cell)}</td></tr>" for words, cell in rows)
    over = f"mean of the last {run.window():,} episodes" if run.window() > 1 else "the last episode"
    shown = "\n".join(_figure(picture, directory) for picture in pictures)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{html.escape(plain(run.source))} · amaru training</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Training</h1>
<p>{html.escape(of_what(run))}</p>
<table>
<caption hidden>Where it stands</caption>
<tr><th>where it stands</th><td>{html.escape(over)}</td></tr>
{table}
</table>
{"" if standings else f"<p>{_NO_BASELINE}</p>"}
{shown}
</body>
</html>
"""


def _figure(picture: Picture, directory: Path) -> str:
    inside = base64.b64encode((directory / picture.name).read_bytes()).decode("ascii")
    return (
        f"<h2>{html.escape(picture.title)}</h2>\n"
        f'<img alt="{html.escape(picture.words)}" src="data:image/png;base64,{inside}">'
    )


def _cell(name: str, value: float) -> str:
    if name in _SHARES:
        return share(value)
    return f"{value:.4f}" if name in ("utility", "avg_reward") else number(value)
