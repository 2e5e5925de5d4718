"""Pages that run nothing but their own scripts: templates that escape, data as JSON text, a policy by digest.

Data reaches a script as text inside `<script type="application/json">`, where no `<`, `>` or `&` of it is left.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hf_tti.run_folder import write_text

_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


@cache
def templates() -> jinja2.Environment:
    """Of `analysis/templates`; every value is escaped, an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )


def source(name: str) -> Markup:
    """A style sheet or script of `analysis/templates`, as it stands."""
    environment = templates()
    return Markup(environment.loader.get_source(environment, name)[0])


def script_json(value: Any) -> Markup:
    """JSON in ASCII that neither ends a script element nor opens a comment in one.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_ESCAPES))


def security_policy(*scripts: str) -> str:
    """A Content-Security-Policy: these inline scripts, inline styles, embedded pictures, and no request."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"


def joined(*names: str) -> Markup:
    """Style sheets or scripts, one after the other."""
    return Markup("\n").join(map(source, names))


def write_page(path: Path, template: str, *, styles: Sequence[str], scripts: Sequence[str], **context: Any) -> Path:
    """Renders a template that gets `policy`, `style`, `script` and `context`; the file is whole or not there.

    Args:
        path: of the page; its folder is made.
        template: its name.
        styles, scripts: their names, in order.
    """
    script = joined(*scripts)
    text = (
        templates()
        .get_template(template)
        .render(policy=security_policy(script), style=joined(*styles), script=script, **context)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
