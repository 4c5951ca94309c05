"""The looks of a bench's report: the style of a run's report, and a class for each arm."""

from __future__ import annotations

from chronorun.analysis.report.style import style

_ARMS = {
    "lifecycle": ("s0", ""),
    "static": ("ink", "7 3"),
    "static_mean": ("s1", "2 3"),
    "loss_free": ("s2", "9 3 2 3"),
    "yoked": ("s3", "5 3"),
    "static_max": ("s1", "12 4"),
    "lens": ("mR", "6 2"),
    "scheduled": ("mU", "3 2"),
    "sham": ("s3", "1 3"),
    "dry_run": ("soft", "4 4"),
}
"""The colour and the dashes of each arm. Colours stay apart for all common kinds of colour
blindness, and no two arms of a like colour have like dashes."""
OTHER = "arm-other"

_PARTS = """
.plot.rows{margin-left:96px;width:calc(100% - 116px)}
.plot.rows.wide{margin-left:170px;width:calc(100% - 190px)}
.dot{fill:var(--s0);fill-opacity:.55;stroke:var(--s0)}
.span{stroke:var(--ink);stroke-width:2}.mean{fill:var(--ink)}
.margin{fill:var(--soft);fill-opacity:.13}.zero{stroke:var(--ink);stroke-opacity:.75}
.band{stroke:none;fill-opacity:.09}
.line.arm-lifecycle{stroke-width:2.8}
.badge.HELPS{color:var(--s2)}.badge.HARMS{color:var(--mU)}.badge.NO{color:var(--ink)}
.lead dt{font-weight:600;margin-top:10px}.lead dd{margin:0;max-width:90ch;overflow-wrap:anywhere}
h3.after{margin:18px 0 2px}.note{color:var(--soft);font-size:13px;margin:4px 0 0;max-width:100ch}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:8px;
padding:10px 14px;font-size:13px}
td.name{font-weight:600;overflow-wrap:break-word}th.n{white-space:normal}
tr.over td{border-bottom:0;padding-bottom:0}
.below{position:sticky;left:10px;width:fit-content;max-width:min(100ch,calc(100vw - 64px));
overflow-wrap:anywhere;color:var(--soft)}
.keys{font-size:13px;margin:0 0 10px;max-width:none}
.trio{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:16px}
.trio figcaption{min-height:4.5em}
a{color:inherit}
@media (max-width:760px){.plot.rows{margin-left:86px;width:calc(100% - 96px)}
.plot.rows.wide{margin-left:150px;width:calc(100% - 160px)}.trio figcaption{min-height:0}}
@media print{.below{max-width:none}pre{white-space:pre-wrap;
overflow-wrap:anywhere}td.name{white-space:normal}}
"""


def arm_class(arm: str) -> str:
    """Return the class that draws an arm, the same in every picture."""
    return f"arm-{arm}" if arm in _ARMS else OTHER


def bench_style() -> str:
    """Return the style sheet."""
    arms = "".join(_arm(f"arm-{name}", *looks) for name, looks in _ARMS.items())
    arms += _arm(OTHER, "soft", "1 2")
    return style() + arms + _PARTS.replace("\n", "")


def _arm(name: str, colour: str, dashes: str) -> str:
    dashed = f";stroke-dasharray:{dashes}" if dashes else ""
    return f".line.{name}{{stroke:var(--{colour}){dashed}}}.band.{name}{{fill:var(--{colour})}}"
