"""Quizzes on a page: a directive whose content is a list of questions in YAML.

    ```{quiz}
    - ask: Is the bell purple or blue?
      options:
      - right: Purple.
        why: So it is.
      - wrong: Blue.
        why: Look again.
    ```

The page has the questions, and in a fold at its end all answers with their reasons: so it can be
read without JavaScript, and printed. With it, book/assets/quiz.js gives each question a button.
"""

from dataclasses import dataclass

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator


@dataclass(frozen=True)
class Option:
    text: str
    why: str
    right: bool


@dataclass(frozen=True)
class Question:
    text: str
    options: list[Option]


def read_option(given: dict) -> Option:
    """Read {right or wrong: text, why: text}.

    Raises:
        ValueError: it is something else.
    """
    texts = isinstance(given, dict) and all(isinstance(one, str) for one in given.values())
    if not texts or set(given) not in ({"right", "why"}, {"wrong", "why"}):
        raise ValueError(f"an option has `right` or `wrong`, and `why`, not {given!r}")
    right = "right" in given
    return Option(given["right" if right else "wrong"], given["why"], right)


def read_questions(text: str) -> list[Question]:
    """Read a quiz.

    Raises:
        ValueError: it is no list of questions with one right option each; says which.
    """
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {error}") from error
    if not isinstance(given, list):
        raise ValueError("a quiz is a list of questions")
    found = []
    for number, one in enumerate(given, 1):
        if not isinstance(one, dict) or set(one) != {"ask", "options"}:
            raise ValueError(f"question {number} has `ask` and `options`, and nothing else")
        question = Question(one["ask"], [read_option(option) for option in one["options"]])
        if sum(option.right for option in question.options) != 1:
            raise ValueError(f"question {number} needs one right option")
        found.append(question)
    return found


class Quiz(nodes.General, nodes.Element):
    """The questions and answers of a page."""


def html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


class QuizDirective(SphinxDirective):
    """```{quiz}``` with questions in YAML; text may have Markdown, formulas and links."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        try:
            questions = read_questions("\n".join(self.content))
        except ValueError as error:
            raise self.error(f"quiz: {error}") from error
        quiz = Quiz()
        for number, question in enumerate(questions, 1):
            quiz += self.asked(number, question)
        quiz += html('<details><summary>Answers</summary>\n<ol class="answers">\n')
        for question in questions:
            quiz += self.answered(question)
        quiz += html("</ol>\n</details>\n")
        return [quiz]

    def inline(self, text: str) -> list[nodes.Node]:
        """Parse one paragraph. Only in an element of text does Sphinx curl its quotes."""
        return [nodes.inline("", "", *self.parse_inline(text.strip(), lineno=self.lineno)[0])]

    def asked(self, number: int, question: Question) -> list[nodes.Node]:
        """A question as a group of radio buttons."""
        button = f'<li><label><input type="radio" name="question-{number}"> <span>'
        made = [html(f"<fieldset><legend>{number}. "), *self.inline(question.text)]
        made.append(html('</legend>\n<ol type="a">\n'))
        for option in question.options:
            made += [html(button), *self.inline(option.text), html("</span></label></li>\n")]
        return [*made, html("</ol>\n</fieldset>\n")]

    def answered(self, question: Question) -> list[nodes.Node]:
        """What there is to say to each option, in their order."""
        made = [html('<li><ol type="a">\n')]
        for option in question.options:
            start = '<li class="right"><b>Right.</b> ' if option.right else "<li><b>No.</b> "
            made += [html(start), *self.inline(option.why), html("</li>\n")]
        return [*made, html("</ol></li>\n")]


def visit(translator: HTML5Translator, _: Quiz) -> None:
    translator.body.append('<div class="quiz">\n')


def depart(translator: HTML5Translator, _: Quiz) -> None:
    translator.body.append("</div>\n")


def add_script(app: Sphinx, _page: str, _template: str, _context: dict, tree: nodes.Node) -> None:
    """Load the script and the style on pages with a quiz only."""
    if tree and next(tree.findall(Quiz), None):
        app.add_js_file("quiz.js", loading_method="defer")
        app.add_css_file("quiz.css")


def connect(app: Sphinx) -> None:
    app.add_node(Quiz, html=(visit, depart))
    app.add_directive("quiz", QuizDirective)
    app.connect("html-page-context", add_script)
