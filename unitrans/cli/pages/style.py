"""How pages look: colours for light and dark, type, and what happens on a phone."""

SERIES = 8  # colours of series, --c0 to --c7

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2127; --soft: #5c6570; --line: #dcdfe3; --box: #f4f5f4;
  --c0: #1f62a8; --c1: #c4560f; --c2: #257a4b; --c3: #8840a6; --c4: #b8304c; --c5: #0b7a88; --c6: #8a6a0a;
  --c7: #5b6470; --good: #d6ecd9; --bad: #f7d9d3; --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e4e6e8; --soft: #9aa3ad; --line: #333940; --box: #1d2126;
    --c0: #6aaef0; --c1: #f0954e; --c2: #68c48f; --c3: #c78fe0; --c4: #f07a90; --c5: #4fc3d0; --c6: #d8b64a;
    --c7: #a3adb8; --good: #1e4029; --bad: #55261f } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.2rem 1.6rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.6rem 0 .8rem; padding-top: .7rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem }
p { max-width: 68ch; margin: .5rem 0 } ul { margin: .5rem 0; padding-left: 1.2em } a { color: var(--c0) }
.facts, .contents, figcaption, caption, .unit { color: var(--soft); font-size: .875rem }
.facts { margin: 0; max-width: none } .facts span:not(:last-child)::after { content: "\\00a0\\00b7 " }
.contents { max-width: none } .contents a { margin-right: 1.1em; white-space: nowrap }
code, .code { font: .875em/1.5 var(--mono) }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; margin: .6rem 0; overflow-wrap: normal }
caption { text-align: left; padding-bottom: .3rem }
th, td { text-align: left; vertical-align: top; padding: .32rem 1.1rem .32rem 0; border-bottom: 1px solid var(--line);
  max-width: 34rem; white-space: nowrap }
th { font-weight: 600; vertical-align: bottom; border-bottom-color: var(--soft) }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.words { min-width: 11rem; white-space: normal; overflow-wrap: anywhere }
tr.strong td { font-weight: 650 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.4rem 2rem }
figure { margin: .8rem 0; min-width: 0 } figure h3, figure .unit { margin: 0 0 .2rem; max-width: none }
figure svg { display: block; width: 100%; height: auto } figure svg.narrow { display: none }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; padding: 0; margin: 0 0 .3rem;
  font-size: .84rem; line-height: 1.5 }
.keys li { display: flex; align-items: center; gap: .45em; min-width: 0 }
figure .keys svg { flex: none; width: 24px; height: 12px; overflow: visible }
.picture img { display: block; width: min(var(--width), 46rem, 100%); background: #fff; border-radius: 6px;
  padding: 4px }
.note { border-left: 3px solid var(--c1); padding: .1rem 0 .1rem .8rem; margin: .7rem 0; max-width: 68ch }
.sentence { line-height: 1.75; white-space: pre-wrap; border-bottom: 1px solid var(--line); padding-bottom: .5rem }
.sentence small { display: block; color: var(--soft); line-height: 1.4 } .sentence s, .other { color: var(--soft) }
.right { background: var(--good) } .wrong { background: var(--bad) } .other { font-size: .85em }
.right, .wrong { border-radius: 3px; padding: .05em .2em }
details { margin: .6rem 0 } summary { cursor: pointer; color: var(--soft); font-size: .92rem }
@media (max-width: 640px) {
  body { padding: 1.2rem 1rem 3rem } h1 { font-size: 1.4rem } .charts { gap: 1rem }
  figure svg.wide { display: none } figure svg.narrow { display: block }
  th, td { padding-right: .8rem; max-width: 16rem }
  .picture img.large { width: 34rem } }
@media print { body { max-width: none } details > * { display: block } }
"""
