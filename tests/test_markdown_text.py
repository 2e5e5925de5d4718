"""Laws of Markdown from hostile text, under a renderer of GitHub's kind: what goes in as text comes out as text."""

import html
import re

import pytest

from hf_tti.markdown import escaped, fenced, table, visible

HOSTILE = [
    "a|b",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](http://y)",
    "![x](y)",
    "`c`",
    "**b** _i_ __s__ ~~d~~",
    "a\nb",
    "&lt;",
    "# h",
    "\\",
    "\\|",
    "https://evil.example/ www.evil.example",
    "<https://evil.example>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text):
    shown = escaped(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|<>`*\[\]&#]", shown)
    assert re.sub(r"\\(.)", r"\1", shown) == text.replace("\n", " ")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_renderer_shows_the_text_and_no_element(text):
    markdown_it = pytest.importorskip("markdown_it")
    render = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
    assert render(f"x {escaped(text)}") == f"<p>x {html.escape(' '.join(text.split()), quote=True)}</p>\n".replace(
        "&#x27;", "'"
    )
    cells = re.findall(r"<td>(.*?)</td>", render(table([{"a": text, "b": "2"}])))
    assert len(cells) == 2 and html.unescape(cells[0]) == " ".join(text.split())
    (block,) = re.findall(r"<pre><code>(.*)</code></pre>", render(fenced(f"{text}\n```\n<b>````")), re.DOTALL)
    assert html.unescape(block) == f"{text}\n```\n<b>````\n"


def test_marks_that_turn_the_direction_of_text_are_seen():
    assert visible("a\u202eb\x1b[31m\r\nc") == "a\ufffdb\ufffd[31m\nc"
    assert "\u202e" not in escaped("a\u202eb") + fenced("a\u202eb")
