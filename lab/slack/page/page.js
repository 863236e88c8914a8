// The page: what one person sees, kept up to date by asking for changes, and what that person does.

import { renderBlocks } from "/page/blocks.js";
import { make, renderMrkdwn } from "/page/text.js";

const find = (id) => document.getElementById(id);
const seen = { person: new URLSearchParams(location.search).get("as") ?? "anna", place: "C0LABFLEET", state: null, modal: null, following: true, height: 0 };

// What a person does has an answer at the bottom, wherever they had scrolled to.
const ANSWERED = new Set(["command", "message", "submit"]);

async function act(what, asked) {
  if (ANSWERED.has(what)) followEnd();
  const answer = await fetch(`/lab/${what}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ as: seen.person, ...asked }) });
  const said = await answer.json();
  if (said.error && what !== "command") window.alert(said.error);
  return said;
}

function names(state) {
  const found = Object.fromEntries(state.people.map((person) => [person.id, person.name]));
  for (const channel of state.channels) found[channel.id] = channel.name;
  return { ...found, [state.app.user]: state.app.name };
}

function render(state) {
  seen.state = state;
  const people = find("person");
  people.replaceChildren(...state.people.map((one) => make("option", { value: one.name, selected: one.name === seen.person }, `${one.name} (${one.role})`)));
  const places = [...state.channels.map((one) => [one.id, (one.id[0] === "D" ? "" : "# ") + one.name + (one.archived ? " (archived)" : "")]), ["home", `Home of ${state.app.name}`]];
  find("places").replaceChildren(...places.map(([id, name]) => make("li", {}, make("button", { type: "button", "data-place": id, "aria-current": String(id === seen.place), onclick: () => go(id) }, name))));
  find("place").textContent = places.find(([id]) => id === seen.place)?.[1] ?? "";
  find("composer").hidden = seen.place === "home";
  renderApp(state);
  renderPlace(state);
  renderModal(state);
}

function renderApp(state) {
  const { app } = state;
  const how = app.connections ? `connected (${app.connections})` : app.request_url ? `at ${app.request_url}` : "not connected: start `forkyard bot`";
  const wrong = [app.down_seconds ? `down for ${app.down_seconds} s` : "", app.ratelimited_seconds ? `429 for ${app.ratelimited_seconds} s` : "", app.revoked ? "tokens revoked" : ""].filter(Boolean);
  find("app").replaceChildren(make("b", {}, app.name), " ", how, ...wrong.map((text) => make("div", {}, "⚠️ " + text)));
  find("complaints").hidden = state.complaints.length === 0;
  find("complaints").textContent = state.complaints.join("; ");
}

function renderPlace(state) {
  const list = find("messages");
  if (seen.place === "home") {
    const home = state.home;
    list.replaceChildren(...(home ? renderBlocks(home.blocks, names(state), (action_id, value) => act("click", { view_id: home.id, action_id, value })) : [make("p", {}, "The app has not filled this in yet.")]));
    return;
  }
  const channel = state.channels.find((one) => one.id === seen.place);
  const messages = channel?.messages ?? [];
  const top = messages.filter((one) => !one.thread_ts || one.thread_ts === one.ts);
  arrange(list, top.flatMap((one) => {
    const replies = messages.filter((other) => other.thread_ts === one.ts && other !== one);
    const thread = () => make("div", { class: "thread" }, ...replies.map((reply) => renderMessage(reply, state)));
    return [keep(list, one, () => renderMessage(one, state)), ...(replies.length ? [keep(list, replies, thread)] : [])];
  }));
  keepAtEnd();
}

// Whether the newest is followed is decided when a person scrolls, not when something comes: what grows by itself, as a
// picture does when it has loaded, moves the end away from everybody.
function keepAtEnd() {
  const list = find("messages");
  if (seen.following && seen.place !== "home") list.scrollTop = list.scrollHeight;
  seen.height = list.scrollHeight;
}

function followEnd() {
  seen.following = true;
  keepAtEnd();
}

function noticeScroll() {
  const list = find("messages");
  // A scroll that comes of another height is nobody's.
  if (seen.place !== "home" && list.scrollHeight === seen.height) seen.following = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  seen.height = list.scrollHeight;
}

// What shows the same as before stays the same node: one that is replaced under a pressed button never hears the click.
function keep(list, shown, render) {
  const mark = JSON.stringify([seen.place, shown]);
  const node = [...list.children].find((one) => one.mark === mark) ?? render();
  node.mark = mark;
  return node;
}

function arrange(list, nodes) {
  const wanted = new Set(nodes);
  for (const node of [...list.children]) if (!wanted.has(node)) node.remove();
  nodes.forEach((node, index) => { if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null); });
}

function renderMessage(message, state) {
  const when = new Date(Number(message.ts) * 1000).toLocaleTimeString();
  const notes = [message.ephemeral ? "only visible to you" : "", message.edits ? `edited ${message.edits} ×` : ""].filter(Boolean).join(", ");
  const click = (action_id, value) => act("click", { ts: message.ts, action_id, value });
  const body = message.blocks.length ? renderBlocks(message.blocks, names(state), click) : [make("div", { class: "block" }, ...renderMrkdwn(message.text, names(state)))];
  const files = message.files.map((file) => make("figure", {}, make("a", { href: file.url, target: "_blank", rel: "noreferrer" }, /\.(png|svg)$/.test(file.name) ? make("img", { src: file.url, alt: file.title }) : file.name), make("figcaption", {}, file.title)));
  return make("article", { class: message.ephemeral ? "ephemeral" : "", "data-ts": message.ts }, make("span", { class: "who" }, message.author), " ", make("span", { class: "when" }, when), " ", make("span", { class: "note" }, notes), ...body, ...files);
}

function renderModal(state) {
  const dialog = find("modal");
  const view = state.views.at(-1);
  if (!view) { seen.modal = null; dialog.close(); return; }
  const mark = `${view.id} ${view.hash}`;
  if (seen.modal === mark) return; // what the person is typing stays
  seen.modal = mark;
  const submit = async (event) => {
    event.preventDefault();
    const said = await act("submit", { view_id: view.id, values: readValues(dialog) });
    for (const [block, text] of Object.entries(said.errors ?? {})) dialog.querySelector(`[data-error="${CSS.escape(block)}"]`)?.replaceChildren(text);
  };
  const body = renderBlocks(view.blocks, names(state), (action_id, value) => act("click", { view_id: view.id, action_id, value, values: readValues(dialog) }));
  const buttons = make("div", { class: "actions" }, view.submit ? make("button", { class: "primary" }, view.submit.text) : null, make("button", { type: "button", onclick: () => act("close", { view_id: view.id }) }, view.close?.text ?? "Close"));
  dialog.replaceChildren(make("form", { novalidate: true, onsubmit: submit }, make("h3", {}, view.title.text), ...body, buttons));
  if (!dialog.open) dialog.showModal();
}

function readValues(dialog) {
  const fields = [...dialog.querySelectorAll("[data-kind]")];
  return Object.fromEntries(fields.map((field) => [field.name, field.value === "" ? null : field.value]));
}

function go(place) {
  seen.place = place;
  seen.following = true;
  if (place === "home") act("home", {});
  render(seen.state);
}

async function refresh() {
  const person = seen.person;
  const answer = await fetch(`/lab/state?as=${encodeURIComponent(person)}`);
  const state = await answer.json();
  if (answer.ok && person === seen.person) {
    render(state);
    document.body.dataset.person = person;
  }
  return state.version;
}

async function follow() {
  for (;;) {
    try {
      const version = await refresh();
      await (await fetch(`/lab/changes?after=${version}&seconds=20`)).json();
    } catch {
      find("app").replaceChildren("This Slack has stopped. `forkyard lab up` starts it again.");
      await new Promise((wake) => setTimeout(wake, 1000));
    }
  }
}

find("person").addEventListener("change", (event) => { seen.person = event.target.value; seen.modal = null; refresh(); });
find("modal").addEventListener("cancel", (event) => { event.preventDefault(); const view = seen.state.views.at(-1); if (view) act("close", { view_id: view.id }); });
find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = find("text").value.trim();
  find("text").value = "";
  if (text) act(text.startsWith("/") ? "command" : "message", { channel: seen.place, text });
});
for (const button of document.querySelectorAll("[data-fault]")) button.addEventListener("click", () => act("faults", JSON.parse(button.dataset.fault)));
find("messages").addEventListener("scroll", noticeScroll);
find("messages").addEventListener("load", keepAtEnd, true); // of a picture: it does not bubble
follow();
