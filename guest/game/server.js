'use strict';
/*
 * The game: a small arena whose state a fork visibly continues.
 *
 * Idle, it does nothing: the world has no timer, it is brought up to date when somebody looks.
 * What a fork must not share is dropped and drawn anew by POST /reidentify; until then it says child: null.
 * Control paths answer only to the machine that the container runs on, never to players.
 */

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');

const page = require('./page.js');
const { World } = require('./world.js');

const PORT = Number(process.env.PORT ?? 8080);
const IDENTITY_FILE = process.env.FORKYARD_IDENTITY || '/run/forkyard/identity.json';
const MAX_BODY = 64 * 1024;
const MAX_SESSIONS = 1000;
const WARM_ROUNDS = 40;

class HttpError extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

/**
 * A generator of our own (HMAC-SHA256 in counter mode): OpenSSL's inside Node has state that a fork
 * copies and that no call reseeds, so two children would draw the same session tokens from it.
 */
class Randomness {
  constructor() {
    this.key = crypto.createHash('sha256').update(kernelRandom()).digest();
    this.counter = 0;
  }

  reseed(entropy) {
    this.key = crypto.createHash('sha256').update(this.key).update(entropy).update(kernelRandom()).digest();
    this.counter = 0;
  }

  draw(label = 'draw') {
    this.counter += 1;
    return crypto.createHmac('sha256', this.key).update(`${label} ${this.counter}`).digest();
  }

  fingerprint() {
    return crypto.createHmac('sha256', this.key).update('fingerprint').digest('hex').slice(0, 32);
  }
}

function kernelRandom() {
  const file = fs.openSync('/dev/urandom', 'r');
  try {
    const bytes = Buffer.alloc(32);
    fs.readSync(file, bytes, 0, bytes.length, null);
    return bytes;
  } finally {
    fs.closeSync(file);
  }
}

function readIdentityFile() {
  try {
    return JSON.parse(fs.readFileSync(IDENTITY_FILE, 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw new HttpError(500, `${IDENTITY_FILE}: ${error.message}`);
  }
}

function findGateway() {
  // Through the published port, the container's own host comes in as the gateway; players keep their address.
  for (const line of fs.readFileSync('/proc/net/route', 'utf8').split('\n').slice(1)) {
    const [, destination, gateway] = line.split('\t');
    if (destination === '00000000') return gateway.match(/../g).reverse().map((h) => parseInt(h, 16)).join('.');
  }
  return null;
}

const gateway = findGateway();
const randomness = new Randomness();
const world = new World(randomness.draw('world'));
const sessions = new Map();
const sockets = new Set();
const counters = new Map();
const state = { child: null, forkId: null, quiesced: false, served: 0 };

function takeIdentity(identity) {
  state.child = identity.name;
  state.forkId = identity.fork_id;
  state.served = 0;
}

function view() {
  world.advance();
  return {
    child: state.child,
    fork_id: state.forkId,
    served: state.served,
    ticks: world.ticks,
    sessions: sessions.size,
    world: world.view(),
  };
}

function index(request) {
  if (state.quiesced) throw new HttpError(503, 'quiesced');
  state.served += 1;
  const seen = view();
  if ((request.headers.accept || '').includes('application/json')) return json(200, seen);
  return { code: 200, type: 'text/html; charset=utf-8', body: page.render(seen) };
}

function healthz() {
  const status = state.quiesced ? 'quiesced' : 'ok';
  return json(state.quiesced ? 503 : 200, { status, child: state.child, fork_id: state.forkId });
}

function quiesce(request) {
  if (!state.quiesced) {
    state.quiesced = true;
    world.pause();
  }
  dropConnections(request.socket);
  return json(200, { quiesced: true, ticks: world.ticks });
}

function reidentify(request, body) {
  const identity = parse(body);
  const entropy = Buffer.from(String(identity.entropy || ''), 'base64');
  if (!identity.name || !identity.fork_id) throw new HttpError(400, 'name and fork_id must be given');
  if (entropy.length < 16) throw new HttpError(400, 'entropy: at least 16 bytes in base64 must be given');
  const file = readIdentityFile();
  // Fails closed: an app that reads one identity and is told another must not serve under either.
  if (file && file.fork_id !== identity.fork_id) throw new HttpError(409, `${IDENTITY_FILE} is of fork ${file.fork_id}`);
  const dropped = { sessions: sessions.size, connections: dropConnections(request.socket) };
  for (const session of sessions.values()) world.leave(session.name);
  sessions.clear();
  counters.clear();
  randomness.reseed(entropy);
  world.reseed(randomness.draw('world'));
  takeIdentity(identity);
  state.quiesced = false;
  world.resume();
  return json(200, {
    child: state.child,
    fork_id: state.forkId,
    fingerprint: randomness.fingerprint(),
    dropped,
    identity_file: file ? 'match' : 'absent',
    ticks: world.ticks,
  });
}

function warm() {
  // Runs every hot path on throwaway copies, so that code is compiled and its pages are resident before a fork.
  const trial = new Randomness();
  for (let round = 0; round < WARM_ROUNDS; round += 1) {
    trial.reseed(trial.draw());
    const twin = new World(trial.draw('world'));
    twin.pause();
    twin.reseed(trial.draw('world'));
    twin.resume();
    page.render(view());
    JSON.stringify(parse(JSON.stringify({ entropy: trial.fingerprint() })));
    renderMetrics();
    healthz();
    readIdentityFile();
  }
  if (globalThis.gc) globalThis.gc();
  return json(200, { warm: true, rounds: WARM_ROUNDS });
}

function join(request, body) {
  if (state.quiesced) throw new HttpError(503, 'quiesced');
  if (sessions.size >= MAX_SESSIONS) throw new HttpError(503, `the arena is full: ${MAX_SESSIONS} players`);
  const name = String(parse(body).name || 'guest').replace(/[^\w-]/g, '').slice(0, 16) || 'guest';
  const token = randomness.draw('session').toString('base64url');
  const player = world.join(name);
  sessions.set(token, player);
  return json(200, { session: token, name: player.name, x: player.x, y: player.y });
}

function me(request) {
  const player = sessions.get(request.headers['x-session']);
  if (!player) throw new HttpError(401, 'no such session: POST /join first');
  world.advance();
  return json(200, { name: player.name, x: player.x, y: player.y, score: player.score });
}

function renderMetrics() {
  world.advance();
  const lines = ['# TYPE game_requests_total counter'];
  for (const [key, count] of counters) lines.push(`game_requests_total{${key}} ${count}`);
  const info = `child="${state.child || ''}",fork_id="${state.forkId || ''}"`;
  lines.push('# TYPE game_served_total counter', `game_served_total ${state.served}`);
  lines.push('# TYPE game_ticks counter', `game_ticks ${world.ticks}`);
  lines.push('# TYPE game_sessions gauge', `game_sessions ${sessions.size}`);
  lines.push('# TYPE game_connections gauge', `game_connections ${sockets.size}`);
  lines.push('# TYPE game_info gauge', `game_info{${info}} 1`, '');
  return lines.join('\n');
}

function metrics() {
  return { code: 200, type: 'text/plain; version=0.0.4', body: renderMetrics() };
}

const ROUTES = {
  'GET /': { answer: index },
  'GET /healthz': { answer: healthz },
  'GET /metrics': { answer: metrics },
  'GET /me': { answer: me },
  'POST /join': { answer: join },
  'POST /quiesce': { answer: quiesce, control: true },
  'POST /reidentify': { answer: reidentify, control: true },
  'POST /warm': { answer: warm, control: true },
};

function answer(request, body) {
  const path = request.url.split('?', 1)[0];
  const route = ROUTES[`${request.method === 'HEAD' ? 'GET' : request.method} ${path}`];
  const result = attempt(route, request, body);
  const key = `path="${route ? path : 'other'}",code="${result.code}"`;
  counters.set(key, (counters.get(key) || 0) + 1);
  return result;
}

function attempt(route, request, body) {
  try {
    if (!route) throw new HttpError(404, 'there is /, /healthz, /metrics, /join and /me');
    if (route.control && !isOwnHost(request.socket.remoteAddress)) throw new HttpError(403, 'only for the machine itself');
    return route.answer(request, body);
  } catch (error) {
    if (!(error instanceof HttpError)) throw error;
    return json(error.code, { error: error.message });
  }
}

function isOwnHost(address) {
  return address === gateway || address === '127.0.0.1';
}

function json(code, value) {
  return { code, type: 'application/json', body: JSON.stringify(value) + '\n' };
}

function parse(body) {
  try {
    return JSON.parse(body || '{}') || {};
  } catch (error) {
    throw new HttpError(400, `not JSON: ${error.message}`);
  }
}

function dropConnections(except) {
  let dropped = 0;
  for (const socket of sockets) {
    if (socket === except) continue;
    socket.destroy();
    dropped += 1;
  }
  return dropped;
}

function handle(request, response) {
  const chunks = [];
  let size = 0;
  request.on('data', (chunk) => {
    size += chunk.length;
    if (size > MAX_BODY) request.destroy();
    else chunks.push(chunk);
  });
  request.on('end', () => {
    const { code, type, body } = answer(request, Buffer.concat(chunks).toString());
    response.writeHead(code, {
      'content-type': type,
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store',
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
}

function start() {
  const identity = readIdentityFile();
  if (identity) takeIdentity(identity); // restarted inside a child: still that child
  // Longer than a load balancer keeps idle connections, or it would send into one that just closed.
  const server = http.createServer({ keepAliveTimeout: 75000, connectionsCheckingInterval: 60000 }, handle);
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(PORT, process.env.HOST || '0.0.0.0', () => {
    // Where the port is 0, whoever started us reads here which one it became.
    if (process.env.FORKYARD_PORT_FILE) fs.writeFileSync(process.env.FORKYARD_PORT_FILE, `${server.address().port}`);
  });
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
}

start();
