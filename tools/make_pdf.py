"""Print the path of the built book, from the welcome to the report, as one PDF.

The articles of the built pages are joined on one page, which Chromium prints with bookmarks. Code
that the pages fold because it only draws, counts or checks stays out; the notebooks have it.

    python tools/make_pdf.py [FOLDER]    # of the book in this folder, or in another one
"""

import html
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from notice_lib import __version__  # noqa: E402
from tools.chromium import chromium  # noqa: E402
from tools.pages.folds import COMPUTED  # noqa: E402

STYLE = Path(__file__).with_suffix(".css")
PART = "The path"
BACK = ("book/glossary", "book/bibliography")  # what the path's pages refer to most
HEADINGS = "article :is(h1, h2, h3, h4, h5, h6)"
LEFT_OUT = ".headerlink, .tag_colab-setup, script, button"
PAGE = """\
<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>{title}</title>
{styles}
<style>{style}</style>
</head>
<body>
<header>
<p class="title">{title}</p>
<p>{authors}</p>
<p>The path: the chapters that every reader needs. Version {version}. Text, figures and code:
Apache-2.0. The whole book, with its appendices and its code, is at <a href="{site}">{site}</a>.</p>
<nav><ul>{contents}</ul></nav>
</header>
{articles}
</body>
</html>
"""


def printed_pages(root: Path) -> list[str]:
    """Return the pages of the path and what follows them, named as in _toc.yml."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    (path,) = [part for part in contents["parts"] if part["caption"] == PART]
    return [contents["root"], *(chapter["file"] for chapter in path["chapters"]), *BACK]


def address(settings: dict) -> str:
    """Return where the workflow `book` publishes the pages of this repository."""
    owner, name = urlsplit(settings["repository"]["url"]).path.strip("/").split("/")
    return f"https://{owner}.github.io/{name}/"


def identifier(page: str, fragment: str = "") -> str:
    """Return the name that a page, or a place on it, has on the joined page."""
    return f"{Path(page).name}.{fragment}" if fragment else Path(page).name


def target(page: str, link: str, pages: list[str], site: str) -> str:
    """Return where a link of a page leads: to another place in the PDF, or to the whole book."""
    if urlsplit(link).scheme:
        return link
    path, fragment = urldefrag(link)
    name = f"book/{path.removesuffix('.html')}" if path else page
    if name in pages:
        return f"#{identifier(name, fragment)}"
    return f"{site}book/{link}"


def article_of(folder: Path, page: str, pages: list[str], site: str) -> Tag:
    """Return the article of a built page, with the names that it has on the joined page."""
    built = BeautifulSoup((folder / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    article = built.select_one("article.bd-article")
    for one in article.select(LEFT_OUT):
        one.decompose()
    for fold in article.select("details"):
        if fold.summary.get_text() == COMPUTED:
            fold.decompose()
        else:
            fold["open"] = ""
    for one in article.select("[id]"):
        one["id"] = identifier(page, one["id"])
    for one in article.select("a[href]"):
        one["href"] = target(page, one["href"], pages, site)
    for one in article.select("[src]"):
        one["src"] = (folder / page).parent.joinpath(one["src"]).resolve().as_uri()
    article["id"] = identifier(page)
    return article


def stylesheets(folder: Path, page: str) -> str:
    """Return the links to the stylesheets of a built page."""
    built = BeautifulSoup((folder / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    links = built.select("link[rel=stylesheet]")
    paths = [(folder / page).parent / link["href"].partition("?")[0] for link in links]
    return "\n".join(f'<link rel="stylesheet" href="{path.resolve().as_uri()}">' for path in paths)


def running_head(article: Tag) -> str:
    """Return the rules that print the title of an article above each of its pages."""
    title = article.h1.get_text().strip().replace('"', r"\"")
    name = f"page-{article['id']}"
    return (
        f'article[id="{article["id"]}"] {{ page: {name}; }}\n'
        f'@page {name} {{ @top-left {{ content: "{title}"; }} }}\n'
    )


def joined(root: Path) -> str:
    """Return one page of HTML with a title, contents, and the articles of the built pages."""
    folder = root / "_build" / "html"
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    pages, site = printed_pages(root), address(settings)
    articles = [article_of(folder, page, pages, site) for page in pages]
    contents = [f'<li><a href="#{one["id"]}">{one.h1.get_text()}</a></li>' for one in articles]
    return PAGE.format(
        title=html.escape(settings["title"]),
        authors=html.escape(settings["author"]),
        version=__version__,
        site=site,
        styles=stylesheets(folder, pages[0]),
        style=STYLE.read_text(encoding="utf-8") + "".join(map(running_head, articles)),
        contents="\n".join(contents),
        articles="\n".join(map(str, articles)),
    )


def print_page(path: Path, out: Path) -> list[str]:
    """Print a page of HTML, and return its headings in their order."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(path.as_uri(), wait_until="load")
        page.pdf(path=out, prefer_css_page_size=True, tagged=True, outline=True)
        return page.locator(HEADINGS).all_text_contents()


def bookmarks_below(parent: DictionaryObject) -> Iterator[DictionaryObject]:
    """Yield the bookmarks below one of them, or below the root, in the order of the text."""
    following = parent.get("/First")
    while following is not None:
        bookmark = following.get_object()
        yield bookmark
        yield from bookmarks_below(bookmark)
        following = bookmark.get("/Next")


def name_bookmarks(path: Path, names: list[str]) -> None:
    """Give the bookmarks of a PDF their names: Chromium writes some words of them twice."""
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of Chromium's count of objects
    pdf = PdfWriter(clone_from=path)
    for bookmark, name in zip(bookmarks_below(pdf.get_outline_root()), names, strict=True):
        bookmark[NameObject("/Title")] = TextStringObject(" ".join(name.split()))
    pdf.write(path)


def make_pdf(root: Path) -> Path:
    """Write the PDF of the book in a folder, and return its path."""
    folder = root / "_build" / "pdf"
    folder.mkdir(exist_ok=True)
    page, out = folder / "path.html", folder / "notice-book.pdf"
    page.write_text(joined(root), encoding="utf-8")
    name_bookmarks(out, print_page(page, out))
    return out


def main(root: Path) -> None:
    if not (root / "_build" / "html" / "index.html").exists():
        sys.exit("The book is not built yet: use ./run book")
    print(f"The PDF: {make_pdf(root)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
