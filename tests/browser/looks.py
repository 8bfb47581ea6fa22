"""What is asked of a page in a browser: whether its text can be read, where the focus is, what must have a name."""

from pathlib import Path

CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
DOZEN = Path(__file__).with_name("dozen.js").read_text(encoding="utf-8")

# Where the focus is, in words, and whether one can see that it is there.
FOCUS = """
const at = document.activeElement;
if (!at || at === document.body) return null;
return {
  name: at.getAttribute("aria-label") || at.id || at.textContent.trim().slice(0, 40),
  seen: getComputedStyle(at).outlineStyle !== "none" && parseFloat(getComputedStyle(at).outlineWidth) >= 2,
};
"""
# How many places the focus can go to.
PLACES = """
const places = [...document.querySelectorAll("a[href], button, input, [tabindex='0']")];
return places.filter((one) => one.checkVisibility({ visibilityProperty: true })).length;
"""
# [name, text] of each verdict.
CARDS = (
    "return [...document.querySelectorAll('.card')].map((one) => [one.querySelector('h2').textContent, one.innerText])"
)
# Collects what is read aloud from here on.
LISTEN = """
const sentence = document.querySelector("#sentence");
window.heard = [];
const note = () => window.heard.push(sentence.innerText);
new MutationObserver(note).observe(sentence, { childList: true, characterData: true, subtree: true });
"""
# What sticks out to the right of the window, but for what is scrolled in its own frame or hidden.
BEYOND = """
const out = (one) => !one.closest(".scroll, .skip, .sentence") && one.getBoundingClientRect().right > innerWidth + 1;
return [...document.querySelectorAll("body *")].filter(out).map((one) => one.outerHTML.slice(0, 80));
"""
# Roles whose nodes mean nothing to a listener without a name.
NAMED = ("link", "button", "textbox", "searchbox", "image", "img", "heading", "region", "search")
