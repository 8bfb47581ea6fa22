// Elements from data, changed in place: what has the focus, or is being read aloud, stays where it is.

const SVG = "http://www.w3.org/2000/svg";

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  // Text, never markup: names come from users.
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, children);

// Makes the children of `parent` equal to `wanted`, keeping the elements that are there.
export function show(parent, ...wanted) {
  const children = wanted.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(child)));
  children.forEach((child, n) => {
    const there = parent.childNodes[n];
    if (!there) parent.append(child);
    else if (!same(there, child)) there.replaceWith(child);
    else update(there, child);
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
}

const same = (one, other) => one.nodeName === other.nodeName && one.namespaceURI === other.namespaceURI;

function update(there, wanted) {
  if (there.nodeType === Node.TEXT_NODE) {
    if (there.data !== wanted.data) there.data = wanted.data;
    return;
  }
  for (const { name } of [...there.attributes]) if (!wanted.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of [...wanted.attributes]) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  show(there, ...wanted.childNodes);
}
