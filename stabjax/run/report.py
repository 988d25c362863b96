"""A run folder or a comparison becomes one HTML file that needs nothing else.

The page is made from the folder's files alone, without jax, so that it can be made on
any machine the folder was copied to.
"""

import pathlib

import jinja2

from stabjax.models.drawing import DARK, DASHES, LIGHT, declarations
from stabjax.run.page_comparison import comparison
from stabjax.run.page_panels import never
from stabjax.run.page_single import single_run

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def write_report(folder: pathlib.Path | str) -> pathlib.Path:
    """Write ``report.html`` into a run folder or a comparison folder.

    A folder with comparison.json, or with ``<arm>/seed<k>`` folders, is a comparison;
    any other is a run. Whatever is missing or unreadable is named on the page. The
    same files give the same bytes.

    Args:
        folder: The folder to report on; it must exist.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If there is no such folder.

    Example:
        >>> import tempfile
        >>> write_report(tempfile.mkdtemp()).name
        'report.html'
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"write_report: folder must be an existing folder, got {folder}."
        )
    together = (folder / "comparison.json").is_file() or any(folder.glob("*/seed*/"))
    if together:
        html = _template("comparison.html").render(comparison(folder))
    else:
        html = _template("run.html").render(single_run(folder))
    page = folder / "report.html"
    partial = page.with_suffix(".partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(page)  # whoever has the page open never sees half of it
    return page


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,  # everything in a run folder is data, never markup
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["never"] = never
    environment.globals["light_colors"] = declarations(LIGHT)
    environment.globals["dark_colors"] = declarations(DARK)
    environment.globals["dashes"] = [
        " ".join(f"{1.5 * part:g}" for part in dash) or "none" for dash in DASHES
    ]
    return environment.get_template(name)
