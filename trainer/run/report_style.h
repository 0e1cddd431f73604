// report_style.h - the style sheet of the report. Colours of figures are those of Okabe and Ito, told
// apart by readers of any colour vision; lighter on dark ground, and as on paper when printed.
#pragma once

namespace nestling {

inline constexpr const char* kReportStyle = R"css(
:root { color-scheme: light dark; --bg: #ffffff; --fg: #1b1d21; --quiet: #5c626b; --rule: #d9dce1;
  --grid: #e9ebee; --tint: #f5f6f8; --band0: #f4f5f7; --band1: #e8eaee; --grey: #7d838c;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b0578d; --c4: #c48a00; --c5: #3a9bd4; --c6: #7a6a53; }
@media screen and (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #e7e9ec; --quiet: #9ba2ac;
  --rule: #363b42; --grid: #272b31; --tint: #1d2024; --band0: #1b1e22; --band1: #23272c; --grey: #979da6;
  --c0: #58a9e0; --c1: #f08a3c; --c2: #2fc598; --c3: #df8fbe; --c4: #e6b53c; --c5: #8fcdf3; --c6: #b9a98f; } }
* { box-sizing: border-box; }
html { background: var(--bg); }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 57rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; font-weight: 650; letter-spacing: -0.01em; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 0.75rem; padding-top: 0.9rem; border-top: 1px solid var(--rule);
  font-weight: 650; }
p { margin: 0.5rem 0; max-width: 44rem; }
.lead { color: var(--quiet); font-size: 1.05rem; margin: 0.35rem 0 1.4rem; }
.quiet, figcaption span { color: var(--quiet); font-size: 0.84rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: 0.9rem 1.5rem; margin: 0; }
dt { color: var(--quiet); font-size: 0.8rem; } dd { margin: 0; }
.missing { border-left: 3px solid var(--c1); background: var(--tint); padding: 0.6rem 1rem; margin: 1.5rem 0 0; }
.missing ul { margin: 0.25rem 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.87rem; }
th, td { padding: 0.42rem 0 0.42rem 0.75rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { font-weight: 600; border-bottom: 1px solid var(--fg); white-space: normal; vertical-align: bottom; }
tbody th { font-weight: 600; } tbody tr + tr > * { border-top: 1px solid var(--grid); }
tr.parent > * { color: var(--quiet); }
td small, th small { display: block; color: var(--quiet); font-weight: 400; font-size: 0.8rem; }
.interval { color: var(--quiet); font-size: 0.92em; }
.events td { white-space: normal; text-align: left; } .events td:nth-child(-n+3) { white-space: nowrap; }
.panels { display: grid; margin-top: 1.4rem; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.6rem 1.8rem;
  align-items: start; }
figure { margin: 1.1rem 0 0; break-inside: avoid; min-width: 0; } .panels figure { margin: 0; }
figcaption { margin-bottom: 0.45rem; } figcaption b { font-weight: 600; display: block; }
figcaption span { display: block; line-height: 1.4; }
figcaption i { font-style: normal; font-size: 0.7rem; color: var(--quiet); border: 1px solid var(--rule);
  border-radius: 3px; padding: 0 0.3em; margin-left: 0.5em; vertical-align: 0.1em; font-weight: 400; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 12px; }
svg.swatch { display: inline-block; width: 0.62rem; margin-right: 0.45rem; vertical-align: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.84rem; margin: 0.4rem 0 0.8rem; }
.gap { border: 1px dashed var(--rule); padding: 0.8rem 1rem; color: var(--quiet); font-size: 0.9rem; }
.gap b { display: block; color: var(--fg); font-weight: 600; }
text { fill: var(--fg); } text.tick { fill: var(--quiet); font-size: 11px; } text.label { fill: var(--quiet); }
text.note { fill: var(--quiet); font-size: 11px; }
text.note, text.name { paint-order: stroke; stroke: var(--bg); stroke-width: 3px; stroke-linejoin: round; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .grey { --c: var(--grey); }
.line { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; } .dash { stroke-dasharray: 5 3; }
.dot { fill: var(--c); } .hollow { fill: var(--bg); stroke: var(--c); stroke-width: 1.6; }
.arrow { stroke: var(--c); stroke-width: 1.3; opacity: 0.75; } .whisker { stroke: var(--c); stroke-width: 1.3; }
line.grid { stroke: var(--grid); } .axis, .zero { stroke: var(--grey); stroke-width: 1; }
.mark { stroke: var(--fg); stroke-dasharray: 4 3; stroke-width: 1; opacity: 0.7; }
.cut { stroke: var(--c); stroke-width: 1.6; } .area { fill: var(--grey); opacity: 0.55; }
.band0 { fill: var(--band0); } .band1 { fill: var(--band1); } .shade { fill: var(--c2); opacity: 0.14; }
details { margin: 0.6rem 0; } summary { cursor: pointer; }
pre { background: var(--tint); padding: 0.8rem 1rem; font-size: 0.78rem; line-height: 1.45; white-space: pre-wrap;
  overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--quiet); font-size: 0.8rem; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } h2, figcaption { break-after: avoid; }
  .panels { grid-template-columns: 1fr 1fr; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
)css";

}  // namespace nestling
