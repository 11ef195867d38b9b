// The style sheet of the panel.
export const STYLE = `
.metscope { color: #fff; color-scheme: dark; font-size: 13px; height: 100%; overflow-y: auto; padding: 8px;
  scrollbar-width: thin; }
.metscope select, .metscope button, .metscope input:not([type=checkbox]) { background: #090c29; border: 1px solid #348cfd; border-radius: 4px; color: #fff;
  font: inherit; min-height: 28px; padding: 2px 8px; }
.metscope button:hover:enabled { background: #1d2a6b; } .metscope button:disabled { opacity: .4; }
.metscope button.first { background: #1c62c4; }
.metscope label { color: #a3b1c9; display: block; margin-top: 6px; } .metscope select { width: 100%; }
.metscope .buttons { align-items: center; display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0; }
.metscope form.buttons { flex: 1; margin: 0; }
.metscope .title { font-weight: 600; overflow-wrap: anywhere; } .metscope button[aria-pressed=true] { background: #1d2a6b; }
.metscope progress { accent-color: #348cfd; width: 100%; }
.metscope [role=alert] { background: #3a0d12; border-radius: 4px; margin: 8px 0; overflow-wrap: anywhere; padding: 8px; }
.metscope .told { background: #10143f; border-radius: 4px; margin: 8px 0; overflow-wrap: anywhere; padding: 8px; }
.metscope .warning { border-left: 3px solid #f5b33e; margin-top: 8px; overflow-wrap: anywhere; padding-left: 6px; }
.metscope table { border-collapse: collapse; font-variant-numeric: tabular-nums; table-layout: fixed; width: 100%; }
.metscope th { padding: 0; text-align: left; vertical-align: bottom; width: 64px; } .metscope th:first-child { width: auto; }
.metscope th:nth-child(2) { width: 50px; } .metscope th:nth-child(3) { width: 82px; }
.metscope th, .metscope td { border-bottom: 1px solid #2a2f5a; } .metscope td { padding: 4px 2px; }
.metscope table button { background: none; border: 0; border-radius: 0; color: inherit; cursor: pointer; overflow: hidden;
  padding: 4px; text-align: left; text-overflow: ellipsis; width: 100%; }
.metscope th button { color: #a3b1c9; font-size: 11px; font-weight: 400; letter-spacing: -.2px; padding: 4px 0 4px 2px; } .metscope td:first-child { padding: 0; }
.metscope td button { overflow-wrap: anywhere; padding: 4px 2px; }
.metscope [aria-sort=ascending] button::after { content: ' ▲' / ''; } .metscope [aria-sort=descending] button::after { content: ' ▼' / ''; }
.metscope tbody tr { cursor: pointer; } .metscope tbody tr:hover { background: #12173f; } .metscope tbody tr.selected { background: #1d2a6b; }
.metscope .swatch { border-radius: 2px; display: inline-block; height: 10px; margin-right: 5px; width: 10px; }
.metscope .sieve { align-items: center; display: flex; gap: 8px; margin-bottom: 4px; } .metscope .sieve label { margin: 0; }
.metscope .sieve input[type=search] { flex: 1; min-width: 0; }
.metscope .acts:not(:empty) { background: #10143f; border-radius: 4px; margin-top: 6px; padding: 0 8px; }
.metscope .acts > div:first-child { padding-top: 4px; } .metscope .acts input { flex: 1; min-width: 0; }
.metscope a { color: #5acce6; } .metscope .who { align-items: center; display: flex; gap: 8px; justify-content: space-between; }
.metscope-leap { left: 0; position: absolute; top: -100px; z-index: 1000; } .metscope-leap:focus { background: #1c62c4; color: #fff; padding: 8px; top: 0; }
.metscope .note { color: #a3b1c9; margin-top: 8px; overflow-wrap: anywhere; } .metscope label + .note { margin-top: 2px; }
.metscope summary { cursor: pointer; margin-top: 8px; } .metscope li { border-top: 1px solid #2a2f5a; padding: 4px 0; }
.metscope :focus-visible { outline: 2px solid #5acce6; }
`
