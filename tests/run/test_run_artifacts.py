import base64

import numpy as np
import pytest
from line_model import PICTURE

from stabjax.config import ConfigError
from stabjax.run import train
from stabjax.run.artifacts import read_pictures, write_artifacts
from stabjax.run.report import write_report


def test_a_run_leaves_the_files_of_its_task(config_of, tmp_path):
    result = train(config_of(), tmp_path / "a", progress=False)
    place = result.folder / "artifacts"
    weights = [float(w) for w in (place / "weights.csv").read_text().split(",")]
    np.testing.assert_allclose(weights, result.state.params["w"], atol=1e-3)
    assert (place / "raw.bin").read_bytes() == b"\x00\xff"


def test_the_page_shows_the_pictures_as_images_that_run_nothing(config_of, tmp_path):
    result = train(config_of("train.steps=5"), tmp_path / "a", progress=False)
    html = write_report(result.folder).read_text()
    encoded = base64.b64encode(PICTURE.encode()).decode()
    assert f'<img src="data:image/svg+xml;base64,{encoded}"' in html
    assert 'alt="a &amp;lt;line&amp;gt;"' in html  # text of the file, escaped
    assert "<h3>line fit</h3>" in html


def test_a_page_without_pictures_has_no_section_for_them(config_of, tmp_path):
    result = train(config_of("train.steps=5"), tmp_path / "a", progress=False)
    (result.folder / "artifacts" / "line_fit.svg").unlink()
    assert 'id="pictures"' not in write_report(result.folder).read_text()


@pytest.mark.parametrize("name", ["../up.csv", ".hidden", "a/b.svg", ""])
def test_a_file_cannot_leave_its_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="artifact name must be"):
        write_artifacts(tmp_path, {"good.csv": "1", name: "2"})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_too_large_for_a_page_is_named(tmp_path):
    write_artifacts(tmp_path, {"huge.svg": "x" * (5 << 20), "small.svg": PICTURE})
    problems = []
    assert [p.name for p in read_pictures(tmp_path, problems)] == ["small"]
    assert problems == ["huge.svg is too large to be shown."]
