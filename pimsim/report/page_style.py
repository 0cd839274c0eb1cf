"""Frame, style sheet and script of the HTML page. The script sorts, filters and unfolds tables; nothing is loaded."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#5c6670;--line:#d5dae0;--grid:#eceff2;--head:#f5f7f9;
--c0:#2f6f9f;--c1:#c8702a;--c2:#5a9a68;--c3:#8a6bb0;--c4:#c9a227;--c5:#b0506a;--c6:#4aa3a8;--c7:#7d7466;--c8:#aab2ba}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e4e8ec;--soft:#9aa5b0;--line:#39414a;--grid:#252b32;
--head:#1d2228;--c0:#62a6d8;--c1:#e0924e;--c2:#78b886;--c3:#ab8fd0;--c4:#d8b64a;--c5:#cf7a92;--c6:#68bcc0;--c7:#9c9383;
--c8:#6f7983}}
*{box-sizing:border-box}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2rem auto;
padding:0 1.2rem}
h1{font-size:1.5rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line);font-size:1.25rem}
h3{margin:1.8rem 0 .4rem;font-size:1.02rem}h4{margin:.8rem 0 .2rem;font-size:.9rem;font-weight:600;color:var(--soft)}
nav a{color:var(--c0);margin-right:1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem}dt{color:var(--soft);max-width:22rem}dd{margin:0}
.note{color:var(--soft);font-size:.87rem;margin:.1rem 0 .5rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:0 2rem}
.bar{display:grid;grid-template-columns:11rem 1fr 5.5rem;gap:.6rem;align-items:center;margin:2px 0;font-size:.9rem}
.wide-names .bar{grid-template-columns:24rem 1fr 4rem}
.bar b{font-weight:400;overflow-wrap:anywhere;text-align:right}.bar span{display:flex;height:14px}
.bar i{display:block;height:14px}small,.legend{color:var(--soft)}.legend{font-size:.85rem;margin:.3rem 0}
.legend em{font-style:normal;margin-right:1rem;white-space:nowrap}
.legend i{display:inline-block;width:.75em;height:.75em;margin-right:.35em;border-radius:2px}
.c0{background:var(--c0)}.c1{background:var(--c1)}.c2{background:var(--c2)}.c3{background:var(--c3)}
.c4{background:var(--c4)}.c5{background:var(--c5)}.c6{background:var(--c6)}.c7{background:var(--c7)}.c8{background:var(--c8)}
svg .c0{--c:var(--c0)}svg .c1{--c:var(--c1)}svg .c2{--c:var(--c2)}svg .c3{--c:var(--c3)}svg .c4{--c:var(--c4)}
svg .c5{--c:var(--c5)}svg .c6{--c:var(--c6)}svg .c7{--c:var(--c7)}svg .c8{--c:var(--c8)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:1.2rem}figure{margin:0}
figcaption{font-size:.88rem;color:var(--fg)}.broad{max-width:860px}.narrow{max-width:570px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:11px}
.axis{fill:none;stroke:var(--soft)}.grid{fill:none;stroke:var(--grid)}.line{fill:none;stroke:var(--c,var(--c0))}
.thin{stroke-width:1;opacity:.22}.thick{stroke-width:2.5}.line.front{stroke-width:1.5;opacity:.7}
.roof{stroke:var(--soft);stroke-width:1.5}.dashed{stroke-dasharray:5 4}.span{stroke-width:7;opacity:.45}
.area{fill:var(--c);stroke:none}circle{fill:none;stroke:var(--c,var(--c0));stroke-width:1.2}
circle.front,circle.mark{fill:var(--c,var(--c0))}
.tools{display:flex;gap:1rem;align-items:center;margin:.6rem 0;font-size:.87rem;color:var(--soft)}
.filter{width:24rem;padding:.25rem .5rem;font:inherit}.wide{overflow:auto;max-height:75vh;width:fit-content;max-width:100%;
border:1px solid var(--line)}
table{border-collapse:collapse;font-size:.87rem;min-width:40%}
td,th{padding:.18rem .6rem;border-bottom:1px solid var(--grid);text-align:left;white-space:nowrap}
td.long{white-space:normal;min-width:16rem;max-width:40rem}
thead th{position:sticky;top:0;background:var(--head);border-bottom:1px solid var(--line)}.n{text-align:right}
th button{all:unset;cursor:pointer;font-weight:600}th[aria-sort=ascending] button::after{content:" \\25b2"}
th[aria-sort=descending] button::after{content:" \\25bc"}.less .extra{display:none}
pre{overflow-x:auto;font-size:.82rem}details{margin:.5rem 0}
@media print{.tools{display:none}.wide{max-height:none;overflow:visible}}
"""

SCRIPT = """
'use strict';
for (const box of document.querySelectorAll('.filter')) {
  const tools = box.parentNode, table = tools.nextElementSibling.querySelector('table'), body = table.tBodies[0];
  const names = [...table.tHead.rows[0].cells].map(cell => cell.textContent.toLowerCase());
  const told = tools.querySelector('.told'), toggle = tools.querySelector('.toggle');
  const value = cell => cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.toLowerCase();
  const compare = {'<': (a, b) => a < b, '<=': (a, b) => a <= b, '>': (a, b) => a > b, '>=': (a, b) => a >= b,
                   '=': (a, b) => a === b, '!=': (a, b) => a !== b};
  const test = word => {
    const parts = word.match(/^(.+?)(<=|>=|!=|<|>|=)(.+)$/);
    const column = parts ? names.findIndex(name => name === parts[1] || name.endsWith('.' + parts[1])) : -1;
    if (column < 0) return row => row.textContent.toLowerCase().includes(word);
    const wanted = parts[3];
    return row => {
      const found = value(row.cells[column]);
      if (found === '') return false;
      return compare[parts[2]](found, typeof found === 'number' ? Number(wanted) : wanted);
    };
  };
  const count = () => {
    const seen = [...body.rows].filter(row => !row.hidden).length;
    told.textContent = seen === body.rows.length ? '' : `${seen} of ${body.rows.length} rows`;
  };
  box.addEventListener('input', () => {
    const tests = box.value.toLowerCase().split(/\\s+/).filter(word => word).map(test);
    for (const row of body.rows) row.hidden = !tests.every(holds => holds(row));
    count();
  });
  if (toggle) toggle.addEventListener('change', () => table.classList.toggle('less', !toggle.checked));
  [...table.tHead.rows[0].cells].forEach((head, column) => head.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending', sign = up ? 1 : -1;
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const rows = [...body.rows].map(row => [value(row.cells[column]), row]);
    rows.sort(([a], [b]) => {
      if (a === '' || b === '') return (a === '') - (b === '');
      if (typeof a === 'number' && typeof b === 'number') return sign * (a - b);
      return sign * String(a).localeCompare(String(b));
    });
    body.append(...rows.map(pair => pair[1]));
  }));
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title><style>@STYLE@</style></head><body><h1>pimsim report</h1>
@BODY@
<script>@SCRIPT@</script></body></html>
"""

__all__ = ["PAGE", "SCRIPT", "STYLE"]
