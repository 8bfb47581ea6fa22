// The body of a function: how many texts were looked at, and which are too faint, by WCAG 2.2's formula (success criterion
// 1.4.3), from the styles as they are applied: 4.5, and 3 for large text. A half-transparent colour is laid on what is below.
const parse = (text) => {
  const found = text.match(/rgba?\(([^)]+)\)/);
  if (!found) return null;
  const [r, g, b, a = 1] = found[1].split(/[ ,\/]+/).map(Number);
  return [r, g, b, a];
};
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
const ratio = (one, other) => {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const ground = (element) => {
  const below = element.parentElement ? ground(element.parentElement) : [255, 255, 255, 1];
  const own = parse(getComputedStyle(element).backgroundColor);
  return own && own[3] > 0 ? over(own, below) : below;
};
const wrong = [];
let looked = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode());) {
  const element = node.parentElement, style = getComputedStyle(element);
  if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true }) || element.closest("script, noscript")) continue;
  const svg = element.namespaceURI.endsWith("svg");
  const spot = svg && element.classList.contains("mark") && element.parentElement.querySelector(".spot");
  const behind = spot ? over(parse(getComputedStyle(spot).fill), ground(element)) : ground(element);
  const ink = over(parse(svg ? style.fill : style.color), behind);
  const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
  const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
  const found = ratio(ink, behind);
  looked += 1;
  if (found < least) wrong.push(`${found.toFixed(2)} < ${least}: ${node.data.trim().slice(0, 40)} (${element.tagName}.${element.getAttribute("class")})`);
}
return { looked, wrong: [...new Set(wrong)] };
