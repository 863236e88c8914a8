// Blocks as DOM nodes; `act(action_id, value)` is called when a person clicks or chooses.

import { make, renderMrkdwn, renderText } from "/page/text.js";

const MARK = { pending: "○", in_progress: "◐", complete: "✔", error: "✖" };
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

export function renderBlocks(blocks, names, act) {
  return blocks.map((block) => make("div", { class: `block ${block.type}`, "data-block": block.block_id }, ...renderBlock(block, names, act)));
}

function renderBlock(block, names, act) {
  switch (block.type) {
    case "header": return [renderText(block.text, names)];
    case "section": return [renderSection(block, names), block.accessory ? renderElement(block.accessory, names, act) : null];
    case "context": return [make("div", { class: "context" }, ...block.elements.flatMap((one) => [renderElement(one, names, act), " "]))];
    case "actions": return block.elements.map((one) => renderElement(one, names, act));
    case "divider": return [make("hr")];
    case "image": return [renderImage(block)];
    case "plan": return [make("h4", {}, block.title), ...block.tasks.map((task) => renderTask(task))];
    case "task_card": return [renderTask(block)];
    case "rich_text": return renderRich(block);
    case "table": return [renderTable(block)];
    case "markdown": return [make("pre", {}, block.text)];
    case "alert": return [renderText(block.text, names)];
    case "data_visualization": return [make("strong", {}, block.title), renderChart(block.chart)];
    case "input": return renderInput(block, names);
    default: return [make("em", {}, `a ${block.type} block, which this page cannot show`)];
  }
}

function renderSection(block, names) {
  const fields = block.fields ? make("div", { class: "fields" }, ...block.fields.map((field) => renderText(field, names))) : null;
  return make("div", {}, block.text ? renderText(block.text, names) : null, fields);
}

function renderElement(element, names, act) {
  if (element.type === "mrkdwn" || element.type === "plain_text") return renderText(element, names);
  if (element.type === "image") return make("img", { src: element.image_url, alt: element.alt_text, width: 36 });
  if (element.type === "button") {
    if (element.url) return make("a", { href: element.url, target: "_blank", rel: "noreferrer", class: "button" }, make("button", { type: "button", class: element.style }, renderText(element.text, names)));
    const click = () => { if (confirmed(element.confirm)) act(element.action_id, element.value); };
    return make("button", { type: "button", class: element.style, "data-action": element.action_id, onclick: click }, renderText(element.text, names));
  }
  if (element.options) {
    const choose = (event) => { if (event.target.value) act(element.action_id, event.target.value); };
    const first = make("option", { value: "" }, element.placeholder?.text ?? "Choose");
    return make("select", { "data-action": element.action_id, onchange: choose }, first, ...element.options.map((one) => make("option", { value: one.value, selected: one.value === element.initial_option?.value }, one.text.text)));
  }
  return make("em", {}, element.type);
}

function confirmed(confirm) {
  return !confirm || window.confirm(`${confirm.title.text}\n\n${confirm.text.text}`);
}

function renderImage(block) {
  const source = block.image_url ?? `/files/${block.slack_file?.id}/picture.png`;
  return make("figure", {}, make("img", { src: source, alt: block.alt_text }), make("figcaption", {}, block.title?.text ?? ""));
}

function renderTask(task) {
  const more = [...(task.details ? renderRich(task.details) : []), ...(task.output ? renderRich(task.output) : [])];
  const links = (task.sources ?? []).map((source) => make("a", { href: source.url, target: "_blank", rel: "noreferrer" }, source.text));
  return make("div", { class: `task ${task.status}` }, make("span", { class: "mark", title: task.status }, MARK[task.status] ?? ""), make("span", {}, task.title), more.length + links.length ? make("span", { class: "more" }, ...more, " ", ...links) : null);
}

function renderRich(block) {
  return block.elements.map((part) => {
    if (part.type === "rich_text_list") return make("ul", {}, ...part.elements.map((item) => make("li", {}, ...item.elements.map(renderRichPiece))));
    return make(part.type === "rich_text_preformatted" ? "pre" : "div", {}, ...part.elements.map(renderRichPiece));
  });
}

function renderRichPiece(piece) {
  if (piece.type === "link") return make("a", { href: piece.url, target: "_blank", rel: "noreferrer" }, piece.text ?? piece.url);
  const style = piece.style ?? {};
  return make(style.code ? "code" : style.bold ? "b" : style.italic ? "i" : "span", {}, piece.text ?? piece.user_id ?? "");
}

function renderTable(block) {
  const rows = block.rows.map((row, number) => make("tr", {}, ...row.map((cell) => make(number ? "td" : "th", {}, ...(cell.type === "rich_text" ? renderRich(cell) : [String(cell.text ?? cell.value)])))));
  return make("table", {}, ...rows);
}

function renderChart(chart) {
  const [width, height, left, bottom] = [540, 200, 36, 40];
  const categories = chart.axis_config.categories;
  const values = chart.series.flatMap((one) => one.data.map((point) => point.value));
  const top = Math.max(1, ...values);
  const x = (number) => left + (number + 0.5) * ((width - left) / categories.length);
  const y = (value) => (height - bottom) * (1 - value / top) + 10;
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
  const every = Math.ceil(categories.length / 8);
  categories.forEach((name, number) => { if (number % every === 0) svg.append(draw("text", { x: x(number), y: height - 22, "text-anchor": "middle" }, name)); });
  for (const value of [0, top]) svg.append(draw("text", { x: left - 4, y: y(value) + 3, "text-anchor": "end" }, String(value)));
  chart.series.forEach((one, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const points = one.data.map((point, number) => `${x(number)},${y(point.value)}`).join(" ");
    if (chart.type === "bar") one.data.forEach((point, number) => svg.append(draw("rect", { x: x(number) - 8 + index * 6, y: y(point.value), width: 6, height: y(0) - y(point.value), fill: colour })));
    else svg.append(draw("polyline", { points, fill: "none", stroke: colour, "stroke-width": 2 }));
    svg.append(draw("text", { x: left + index * 110, y: height - 4, fill: colour, style: `fill:${colour}` }, one.name));
  });
  return svg;
}

function draw(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function renderInput(block, names) {
  const element = block.element;
  const id = `input-${block.block_id}`;
  const common = { id, name: element.action_id, "data-kind": element.type, required: !block.optional };
  const hint = block.hint ? make("small", { class: "note" }, renderText(block.hint, names)) : null;
  const optional = block.optional ? make("small", { class: "note" }, " (optional)") : null;
  return [make("label", { for: id }, renderText(block.label, names), optional), renderField(element, common), hint, make("div", { class: "error", "data-error": block.block_id })];
}

function renderField(element, common) {
  const type = { number_input: "number", datepicker: "date", timepicker: "time" }[element.type] ?? "text";
  const value = element.initial_value ?? element.initial_date ?? element.initial_time ?? element.initial_user ?? "";
  if (element.options) return make("select", common, make("option", { value: "" }, ""), ...element.options.map((one) => make("option", { value: one.value, selected: one.value === element.initial_option?.value }, one.text.text)));
  if (element.multiline) return make("textarea", common, value);
  return make("input", { ...common, type, value, placeholder: element.placeholder?.text, min: element.min_value, max: element.max_value });
}

export { renderMrkdwn };
