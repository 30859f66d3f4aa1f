"""Hooks of the documentation site: what MkDocs cannot know from `docs/` alone.

Pages link to files by their place in the repository, as GitHub wants it. README, the
examples and other linked files become pages, every public name gets a page of the API,
links are bent to where all that lies in the site, and equations become MathML, which
browsers show without a script.
"""

import ast
import html
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from jupyter_client.manager import KernelManager
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples/index.md",
    "examples/pod_training/README.md": "examples/pod_training/index.md",
    "benchmarks/README.md": "benchmarks/index.md",
}
MODULES = ("optax_lena.flax", "optax_lena.plotting")
LINK = re.compile(r"(\]\()([^()\s]+?)(#[^()\s]*)?(\))")
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml"}


def on_startup(**options: Any) -> None:
    """Lets notebooks' kernels talk through files: of a network they would warn."""
    KernelManager.transport.default_value = "ipc"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in `docs/`."""
    for source, target in MOVED.items():
        _add(files, config, target, (ROOT / source).read_text())
    for path, text in _api().items():
        _add(files, config, path, text)
    pages = [ROOT / source for source in MOVED] + sorted((ROOT / "docs").glob("*.md"))
    for linked in sorted({link for page in pages for link in _links_out(page)}):
        _add(files, config, _in_site(linked), _as_page(ROOT / linked))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Bends the links of a page that lies elsewhere in the repository."""
    moved = {target: source for source, target in MOVED.items()}
    uri = page.file.src_uri
    here = moved.get(uri, f"docs/{uri}")
    if uri.startswith("api/"):
        return markdown

    def bend(match: re.Match[str]) -> str:
        opening, link, anchor, closing = match.groups()
        target = _target(here, link)
        if target is None:
            return match[0]
        place = posixpath.relpath(_in_site(target), posixpath.dirname(uri) or ".")
        return f"{opening}{place}{anchor or ''}{closing}"

    return LINK.sub(bend, markdown)


def on_page_content(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns what arithmatex has marked as equations into MathML."""
    marked = r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>'

    def equation(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        # LaTeX escapes an underscore in words, and the converter shows the escape.
        source = html.unescape(match[3]).replace(r"\_", "_")
        return latex2mathml.converter.convert(source, display=display)

    return re.sub(marked, equation, text, flags=re.DOTALL)


def _api() -> dict[str, str]:
    """Returns the pages of the API by their place: an index, and one per name."""
    pages, rows = {}, ["# API", "", _docstring("optax_lena").strip()]
    for module in ("optax_lena", *MODULES):
        rows += ["", f"## {module}", "", "| name | |", "|---|---|"]
        for name in _exports(module):
            pages[f"api/{module}.{name}.md"] = f"::: {module}.{name}\n"
            told = _summary(module, name)
            rows.append(f"| [`{name}`]({module}.{name}.md) | {told} |")
    return {"api/index.md": "\n".join(rows) + "\n", **pages}


def _source(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(_source(module).read_text())) or ""


def _exports(module: str) -> dict[str, str]:
    """Returns the public names of a module, and the module that defines each."""
    tree = ast.parse(_source(module).read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(module):
            found |= {
                alias.name: str(node.module) for alias in node.names if alias.asname
            }
        if isinstance(node, ast.FunctionDef) and module in MODULES:
            if not node.name.startswith("_"):
                found[node.name] = module
    return found


def _summary(module: str, name: str) -> str:
    """Returns the first line of what a name's docstring says."""
    body = ast.parse(_source(_exports(module)[name]).read_text()).body
    for node, behind in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return (ast.get_docstring(node) or "").splitlines()[0]
        is_named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
        if is_named and isinstance(behind, ast.Expr):
            return str(ast.literal_eval(behind.value)).splitlines()[0]
    return ""


def _links_out(page: Path) -> list[str]:
    """Returns the files of the repository that a page links to and that are no page."""
    here = page.relative_to(ROOT).as_posix()
    found = [_target(here, match[2]) for match in LINK.finditer(page.read_text())]
    known = [link for link in found if link and not link.startswith("docs/")]
    return [link for link in known if link not in MOVED and (ROOT / link).is_file()]


def _target(here: str, link: str) -> str | None:
    """Returns where in the repository a link leads; None: elsewhere."""
    if "://" in link or link.startswith(("#", "mailto:", "/")):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
    return f"{target}/README.md" if f"{target}/README.md" in MOVED else target


def _in_site(path: str) -> str:
    """Returns where in the site a file of the repository is."""
    if path in MOVED:
        return MOVED[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith((".png", ".jsonl")) else f"{path}.md"


def _as_page(path: Path) -> str:
    if path.suffix == ".jsonl":
        return path.read_text()
    language = LANGUAGES.get(path.suffix, "text")
    name = path.relative_to(ROOT).as_posix()
    return f"# {name}\n\n````{language}\n{path.read_text()}````\n"


def _add(files: Files, config: MkDocsConfig, path: str, content: Any) -> None:
    files.append(File.generated(config, path, content=content))
