"""Names of a zip archive in the code page of a system."""

import zipfile

import pytest
from source_tools import contents, listed


class OfWindows(zipfile.ZipInfo):
    """A member whose name is in the code page of a system, without saying so."""

    page = "cp949"

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.page), self.flag_bits & ~0x800


@pytest.mark.parametrize(
    ("page", "names"), [("cp949", ("고양이", "강아지")), ("cp932", ("ねこ", "イヌ")), ("utf-8", ("chat né", "übrig"))]
)
def test_names_of_a_zip_in_another_code_page_are_read_or_explained(tmp_path, monkeypatch, page, names):
    monkeypatch.setattr(OfWindows, "page", page)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(OfWindows(f"{name}/1.png"), name)
    ids = {f"{name}/1.png": name.encode() for name in names}
    source = listed(tmp_path / "x.zip")
    if page == "utf-8":
        assert contents(source) == ids and source.warnings == ()
    else:
        (line,) = source.warnings
        assert f"--config.data.names={page} reads '{names[0]}/1.png'" in line and len(contents(source)) == 2
        assert contents(listed(tmp_path / "x.zip", names=page)) == ids
