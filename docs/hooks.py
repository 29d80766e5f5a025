"""The site has the repository's other papers too: README is its first page, and what pages link to goes along."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("*.md", "LICENSE", "examples/*.py", "examples/go/*/*.go", "benchmarks/results/**/*.*")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the files of the repository that are not in docs/."""
    for path in (path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))):
        uri = "index.md" if path.name == "README.md" else path.relative_to(ROOT).as_posix()
        if uri not in files.src_uris:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the repository, between docs/ and its parent, become links between pages of the site."""
    folder = "" if page.file.abs_src_path.startswith(str(ROOT / "docs")) else "docs/"
    return re.sub(rf"\]\(({folder or re.escape('../')})", "](", markdown)
