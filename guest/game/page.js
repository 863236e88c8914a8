'use strict';
/* The page that a player opens: the arena as SVG, which child answered, and how it goes on. */

const CELL = 20;

function escape(text) {
  return String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

function hue(text) {
  let sum = 0;
  for (const c of String(text)) sum = (sum * 31 + c.charCodeAt(0)) % 360;
  return sum;
}

function dot(player) {
  const x = player.x * CELL + CELL / 2;
  const y = player.y * CELL + CELL / 2;
  return `<g fill="hsl(${hue(player.name)} 75% 62%)"><circle cx="${x}" cy="${y}" r="7"/>` +
    `<text x="${x + 9}" y="${y + 4}">${escape(player.name)} ${player.score}</text></g>`;
}

function render(seen) {
  const { width, height, coin, players } = seen.world;
  const child = seen.child || 'not forked yet';
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escape(child)}</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="2"><style>
body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#10141c;color:#dde3ee;display:grid;place-items:center;min-height:100vh}
main{width:min(92vw,720px)}h1{margin:0;color:hsl(${hue(child)} 75% 70%)}dl{display:flex;gap:2rem;flex-wrap:wrap;margin:.5rem 0 1rem}
dt{font-size:.75rem;color:#8b96a8}dd{margin:0;font-variant-numeric:tabular-nums}svg{background:#171d29;border-radius:10px;width:100%}
text{font-size:11px}</style></head><body><main><h1>${escape(child)}</h1>
<dl><div><dt>ticks since the parent started</dt><dd>${seen.ticks}</dd></div><div><dt>answers from this child</dt><dd>${seen.served}</dd></div>
<div><dt>players with a session</dt><dd>${seen.sessions}</dd></div><div><dt>fork</dt><dd>${escape(seen.fork_id || 'none')}</dd></div></dl>
<svg viewBox="0 0 ${width * CELL} ${height * CELL}" role="img" aria-label="the arena"><circle cx="${coin.x * CELL + CELL / 2}" cy="${coin.y * CELL + CELL / 2}" r="5" fill="gold"/>
${players.map(dot).join('')}</svg></main></body></html>
`;
}

module.exports = { render };
