"""Light pages: pictures as files, no state of widgets, and only the theme's rules that are used.

The theme's stylesheet is 400 kB, most of it for parts of Bootstrap and icons that no page has, and
a page is blank until it has come.
"""

import base64
import hashlib
import io
import re
from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

STATE = "application/vnd.jupyter.widget-state+json"
PICTURE = re.compile(r'src="data:image/(png|jpeg|svg\+xml);base64,([^"]+)"')
EMBEDDED = re.compile(r'href="data:image/png;base64,([^"]+)"')  # as matplotlib writes them
# What matplotlib writes at more length than a browser needs: notes, line breaks, letters' names and
# places, and digits beyond a hundredth of a point.
LONGER = (
    (re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", re.S), ""),
    (re.compile(r"\s*\n\s*"), " "),
    (re.compile(r'(?<=[#"])DejaVuSans-'), "d"),
    (
        re.compile(r'xlink:href="(#[\w-]+)" transform="translate\(([\d.]+) 0\)"'),
        r'href="\1" x="\2"',
    ),
    (re.compile(r"\b([1-9]\d*\.\d\d)\d+"), r"\1"),
)
# A word of a signature in the reference, which is coloured by the outer span.
WORD = re.compile(r'(<span class="[\w -]+">)<span class="pre">([^<]*)</span></span>')
MOST_LOSSLESS = 100_000  # bytes of a figure; more have only those full of pictures
THEME = "styles/pydata-sphinx-theme.css"
# A string, a comment, or a bracket, none of which a rule's own text holds otherwise.
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/|[{}]', re.S)
NESTING = ("@media", "@supports")
# Bootstrap's script puts the names of its placed tooltips together.
ALWAYS = ("bs-",)
ICON = re.compile(r"fa(?:[bsr]|-.*)?$")  # book/assets/icons.css has the book's icons


def as_webp(png: bytes, most: float = MOST_LOSSLESS) -> bytes:
    """The same pixels in a third less bytes; almost the same ones where these are too many."""
    smaller = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(smaller, "WEBP", lossless=True)
        if len(smaller.getvalue()) > most:
            smaller = io.BytesIO()
            picture.save(smaller, "WEBP", quality=90)
    return smaller.getvalue()


def light_svg(svg: str) -> str:
    """The same SVG in fewer words, with its pictures as WebP."""
    most = MOST_LOSSLESS / max(len(EMBEDDED.findall(svg)), 1)

    def smaller(found: re.Match[str]) -> str:
        webp = as_webp(base64.b64decode(found[1]), most)
        return f'href="data:image/webp;base64,{base64.b64encode(webp).decode()}"'

    svg = EMBEDDED.sub(smaller, svg)
    for longer, shorter in LONGER:
        svg = longer.sub(shorter, svg)
    return svg


def as_file(match: re.Match[str], folder: Path, address: str) -> str:
    """Write a picture that a page holds as base64 into a folder; return its `src`."""
    content, kind = base64.b64decode(match[2]), match[1].removesuffix("+xml")
    if kind == "svg":
        content = light_svg(content.decode()).encode()
    elif kind == "png":
        content, kind = as_webp(content), "webp"
    name = f"{hashlib.sha256(content).hexdigest()[:20]}.{kind}"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return f'src="{address}/{name}"'


def lighten(app: Sphinx, page: str, _template: str, context: dict, _tree: nodes.Node) -> None:
    """Make pictures files, and drop idle spans and the state of widgets, which needs a kernel."""
    folder = Path(app.outdir) / "_images"
    address = context["pathto"]("_images", 1)
    if "body" in context:
        body = PICTURE.sub(lambda found: as_file(found, folder, address), context["body"])
        # The reference has hundreds of these links.
        body = body.replace('title="Link to this definition"', 'title="Link"')
        context["body"] = WORD.sub(r"\1\2</span>", body)
    scripts = context["script_files"]
    context["script_files"] = [
        script for script in scripts if getattr(script, "attributes", {}).get("type") != STATE
    ]


def rules(css: str) -> list[tuple[str, str]]:
    """Split a stylesheet into (selectors, what stands in their brackets)."""
    found, start, opened, depth = [], 0, 0, 0
    for token in TOKEN.finditer(css):
        if token[0] == "{":
            opened = token.start() if depth == 0 else opened
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                found.append((css[start:opened], css[opened + 1 : token.start()]))
                start = token.end()
    return found


def can_match(selector: str, used: set[str]) -> bool:
    """Return whether a page can have all the classes that a selector names outside of brackets."""
    plain = re.sub(r"\[[^\]]*\]|\((?:[^()]|\([^()]*\))*\)", "", selector)
    if "\\" in plain:
        return True
    names = re.findall(r"\.([\w-]+)", plain)
    return all(name in used or name.startswith(ALWAYS) for name in names)


def trimmed(css: str, used: set[str]) -> str:
    """Return a stylesheet without the rules for classes that are not among the used ones."""
    kept = []
    for prelude, body in rules(re.sub(r"/\*(?!!).*?\*/", "", css, flags=re.S)):
        if prelude.lstrip().startswith(NESTING):
            inside = trimmed(body, used)
            kept += [f"{prelude}{{{inside}}}"] if inside else []
        elif "@" in prelude:
            kept.append(f"{prelude}{{{body}}}")
        else:
            selectors = re.split(r",(?![^(]*\))", prelude)
            matching = [one for one in selectors if can_match(one, used)]
            kept += [f"{','.join(matching)}{{{body}}}"] if matching else []
    return "".join(kept)


def used_classes(folder: Path) -> set[str]:
    """Return the classes on the pages in a folder, and every word of the scripts that they load."""
    used, scripts = set(), set()
    for path in set(folder.rglob("*.html")) - set((folder / "_static").rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        used.update(*(names.split() for names in re.findall(r'class="([^"]*)"', text)))
        scripts.update(path.parent / name for name in re.findall(r'src="([^"?]+\.js)', text))
    for script in {path.resolve() for path in scripts}:
        used.update(re.findall(r"[\w-]+", script.read_text(encoding="utf-8")))
    return {name for name in used if not ICON.match(name)}


def trim_theme(app: Sphinx, error: Exception | None) -> None:
    """Trim the theme's own stylesheet to what the finished pages use."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    folders = [Path(theme) / "static" for theme in app.builder.theme.get_theme_dirs()]
    (source,) = [folder / THEME for folder in folders if (folder / THEME).is_file()]
    css = source.read_text(encoding="utf-8")
    (static / THEME).write_text(trimmed(css, used_classes(Path(app.outdir))), encoding="utf-8")


def connect(app: Sphinx) -> None:
    app.connect("html-page-context", lighten, priority=900)
    app.connect("build-finished", trim_theme)
