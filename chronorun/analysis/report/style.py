"""The report's looks: light, dark and on paper."""

from __future__ import annotations

_LIGHT = """
color-scheme:light;--paper:#fdfdfc;--card:#ffffff;--ink:#1b2530;--soft:#5a6673;--rule:#e3e6e9;
--idle:#eceef0;--heat:#1d5c9e;--s0:#1d5c9e;--s1:#b4540a;--s2:#11795a;--s3:#8a3d94;
--mN:#11795a;--mS:#1d5c9e;--mP:#b4540a;--mM:#8a3d94;--mR:#0b7285;--mU:#b3243b;--mX:#5a6673;
"""
_DARK = """
color-scheme:dark;--paper:#14181d;--card:#1a2026;--ink:#e4e8ec;--soft:#9aa6b2;--rule:#2c343c;
--idle:#262d35;--heat:#7ab8f5;--s0:#7ab8f5;--s1:#f0a35e;--s2:#5fcba4;--s3:#d59adf;
--mN:#5fcba4;--mS:#7ab8f5;--mP:#f0a35e;--mM:#d59adf;--mR:#5cc8da;--mU:#ff8797;--mX:#9aa6b2;
"""
_PAGE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1160px;margin:0 auto;padding:32px 24px 48px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:40px 0 4px}h3{font-size:15px;margin:0 0 8px}
p{margin:4px 0 12px;max-width:76ch;overflow-wrap:anywhere}
.soft,figcaption,footer{color:var(--soft);font-size:13px}
.badge{display:inline-block;border:1px solid currentColor;border-radius:9px;padding:0 9px;
font-size:13px;font-weight:400;vertical-align:4px;color:var(--soft)}
.badge.bad{color:var(--mU)}
dl.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;
margin:20px 0 0}
.tiles div{background:var(--card);border:1px solid var(--rule);border-radius:8px;
padding:10px 14px;min-width:0}
.tiles dt{color:var(--soft);font-size:13px}.tiles dd{margin:0;font-size:20px;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tiles small{display:block;font-size:13px;color:var(--soft)}
figure{margin:0;min-width:0}
.card{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:14px 16px;
margin:12px 0 0}
.pair{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:20px}
.plot{display:block;overflow:visible;margin:10px 20px 30px 62px;width:calc(100% - 82px)}
figcaption{margin:0 0 6px}
.key{display:inline-block;margin-right:14px;white-space:nowrap}
.key svg{vertical-align:middle;margin-right:5px}
text{fill:var(--ink);font-size:12px;font-variant-numeric:tabular-nums}
.tick{fill:var(--soft)}.end,.before{text-anchor:end}.mid,.mark{text-anchor:middle}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft);stroke-opacity:.6}
.pale{fill:none;stroke-width:1;stroke-opacity:.28;stroke-dasharray:none!important;
vector-effect:non-scaling-stroke}
.line,.life,.link{fill:none;stroke-width:1.7;vector-effect:non-scaling-stroke;
stroke-linejoin:round}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1);stroke-dasharray:7 3}
.s2{stroke:var(--s2);stroke-dasharray:2 3}.s3{stroke:var(--s3);stroke-dasharray:9 3 2 3}
.thin{stroke-width:1.1}.all{stroke:var(--ink);stroke-width:2}
.mark{font-weight:700;paint-order:stroke;stroke:var(--card);stroke-width:3px}
.mark.after{text-anchor:start;transform:translateX(3px)}
.mark.before{text-anchor:end;transform:translateX(-3px)}
.drop{stroke-width:1;stroke-opacity:.3}.link{stroke-width:1.5}.link.mM{stroke-dasharray:4 3}
.life{stroke:var(--soft);stroke-width:2.2}
.hover{fill:transparent}.cell{fill:var(--heat);shape-rendering:crispEdges}
.cell.h0{fill:var(--idle);fill-opacity:1}
.scroll{overflow-x:auto;margin-top:12px;border:1px solid var(--rule);border-radius:8px;
background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
tbody tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;vertical-align:bottom}
td.n,th.n{text-align:right;white-space:nowrap}td.w{white-space:nowrap}
td .soft{font-size:12px}td.why{min-width:190px;overflow-wrap:anywhere}
b.m{display:inline-block;width:1.5em}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft);font-size:13px}
details ul{columns:330px;font-size:13px;padding-left:18px;margin:8px 0}
footer{margin-top:44px;border-top:1px solid var(--rule);padding-top:12px;overflow-wrap:anywhere}
footer ul{margin:4px 0;padding-left:18px}
@media (max-width:760px){main{padding:20px 14px 32px}.pair{grid-template-columns:minmax(0,1fr);
gap:8px}.card{padding:12px 10px}.plot{margin-left:56px;margin-right:12px;
width:calc(100% - 68px)}}
"""
_PAPER = """
@page{margin:14mm}
@media print{main{max-width:none;padding:0}body{font-size:11pt;background:#fff}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.card,tr,figure,.tiles div{break-inside:avoid}h2,h3,section>p,figcaption{break-after:avoid}
dl.tiles{grid-template-columns:repeat(5,1fr)}
.scroll{overflow:visible;border:0}table{font-size:8pt}th,td{padding:3px 5px}
th.n{white-space:normal}
td.why{min-width:34mm;overflow-wrap:normal}td .soft{font-size:7.5pt}
thead{display:table-header-group}
.pair{grid-template-columns:minmax(0,3fr) minmax(0,2fr)}details:not([open]){display:none}}
"""


def style() -> str:
    """Return the report's style sheet."""
    marks = "".join(
        f"text.m{letter},b.m{letter}{{fill:var(--m{letter});color:var(--m{letter})}}"
        f"line.m{letter}{{stroke:var(--m{letter})}}"
        for letter in "NSPMRUX"
    )
    depths = "".join(f".h{level}{{fill-opacity:{0.06 + 0.094 * level:.2f}}}" for level in range(11))
    return (
        f":root{{{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
        f"@media print{{:root{{{_LIGHT}--paper:#fff}}}}{_PAGE}{marks}{depths}{_PAPER}"
    ).replace("\n", "")
