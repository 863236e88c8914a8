'use strict';
/*
 * A small arena: players wander, and collect the coin when they step on it.
 *
 * It has no timer: `advance` brings it to the present, so an idle world costs nothing, however long.
 * Time is monotonic and stands still with the machine: what a fork continues is this very world.
 */

const WIDTH = 32;
const HEIGHT = 12;
const TICK_MS = 100;
const MAX_STEPS = 300; // after a long idle time only so many are played out; the counter still counts all
const NAMES = ['ada', 'bix', 'cleo', 'dov', 'eve', 'fin', 'gus', 'hal'];
const MOVES = [[1, 0], [-1, 0], [0, 1], [0, -1]];

class World {
  constructor(seed) {
    this.ticks = 0;
    this.startedAt = performance.now();
    this.pausedAt = null;
    this.reseed(seed);
    this.players = NAMES.map((name) => this.place(name));
    this.coin = this.spot();
  }

  /** The course of the world from here on follows from these 16 bytes. */
  reseed(seed) {
    this.random = [0, 4, 8, 12].map((offset) => seed.readUInt32LE(offset) | 0);
  }

  advance() {
    if (this.pausedAt !== null) return;
    const due = Math.floor((performance.now() - this.startedAt) / TICK_MS);
    const steps = Math.min(due - this.ticks, MAX_STEPS);
    for (let step = 0; step < steps; step += 1) this.step();
    this.ticks = Math.max(this.ticks, due);
  }

  pause() {
    this.advance();
    this.pausedAt = performance.now();
  }

  resume() {
    if (this.pausedAt === null) return;
    this.startedAt += performance.now() - this.pausedAt;
    this.pausedAt = null;
  }

  join(name) {
    this.advance();
    let unique = name;
    for (let number = 2; this.players.some((p) => p.name === unique); number += 1) unique = `${name}-${number}`;
    const player = this.place(unique);
    this.players.push(player);
    return player;
  }

  leave(name) {
    this.players = this.players.filter((player) => player.name !== name);
  }

  view() {
    return { width: WIDTH, height: HEIGHT, coin: this.coin, players: this.players };
  }

  place(name) {
    return { name, ...this.spot(), score: 0 };
  }

  spot() {
    return { x: this.next() % WIDTH, y: this.next() % HEIGHT };
  }

  step() {
    for (const player of this.players) {
      const [dx, dy] = MOVES[this.next() & 3];
      player.x = Math.min(Math.max(player.x + dx, 0), WIDTH - 1);
      player.y = Math.min(Math.max(player.y + dy, 0), HEIGHT - 1);
      if (player.x === this.coin.x && player.y === this.coin.y) {
        player.score += 1;
        this.coin = this.spot();
      }
    }
  }

  next() {
    // sfc32: small, fast, and all of its state is ours to replace.
    const [a, b, c, d] = this.random;
    const t = (((a + b) | 0) + d) | 0;
    this.random = [b ^ (b >>> 9), (c + (c << 3)) | 0, (((c << 21) | (c >>> 11)) + t) | 0, (d + 1) | 0];
    return t >>> 0;
  }
}

module.exports = { World };
