import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.inputs import locate
from cxrlt.inputs.locate import locate_images

NIH_FOLDERS = ("images_*/images", "images", "images_*", ".")


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return str(path)


def test_images_are_found_in_archives_together_and_flat(tmp_path):
    files = [touch(tmp_path / "images_001/images/a.png"), touch(tmp_path / "images_012/images/b.png")]
    files += [
        touch(tmp_path / "images/c.png"),
        touch(tmp_path / "images_002/d.png"),
        touch(tmp_path / "e.png"),
    ]
    paths = pd.Series(["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"], index=list("uvwxyz"))
    found = locate_images(paths, tmp_path, NIH_FOLDERS)
    assert found.index.tolist() == list("uvwxyz")
    assert found.tolist()[:5] == files
    assert found.isna().tolist() == [False] * 5 + [True]


def test_nested_paths_are_found_and_a_folder_is_no_image(tmp_path):
    file = touch(tmp_path / "files/p10/p1000/s5/a.jpg")
    (tmp_path / "files/p10/p1000/s5/b.jpg").mkdir()
    found = locate_images(
        pd.Series(["files/p10/p1000/s5/a.jpg", "files/p10/p1000/s5/b.jpg", "files/p11/c.jpg"]),
        tmp_path,
        (".",),
    )
    assert found[0] == file
    assert found[1:].isna().all()


def test_links_to_files_and_folders_are_followed_and_a_dead_link_is_missing(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere / "p1/a.png")
    images = tmp_path / "images"
    images.mkdir()
    (images / "p1").symlink_to(elsewhere / "p1")
    (images / "b.png").symlink_to(elsewhere / "p1" / "a.png")
    (images / "dead.png").symlink_to(elsewhere / "gone.png")
    found = locate_images(pd.Series(["p1/a.png", "b.png", "dead.png"]), images, (".",))
    assert found.tolist()[:2] == [str(images / "p1/a.png"), str(images / "b.png")]
    assert pd.isna(found[2])


def test_a_missing_images_folder_is_an_error_that_names_the_flag(tmp_path):
    with pytest.raises(UserError, match=r"images folder .*none does not exist\. .*--images"):
        locate_images(pd.Series(["a.png"]), tmp_path / "none", (".",))


def test_relative_folders_give_absolute_files(tmp_path, monkeypatch):
    file = touch(tmp_path / "in/a.png")
    monkeypatch.chdir(tmp_path)
    assert locate_images(pd.Series(["a.png"]), (tmp_path / "in").relative_to(tmp_path), (".",)).tolist() == [
        file
    ]


def test_files_of_many_folders_are_each_found_in_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "AT_A_TIME", 3)
    files = [touch(tmp_path / f"p{n // 4}/s{n}/{n}.jpg") for n in range(25)]
    paths = [f"p{n // 4}/s{n}/{n}.jpg" for n in range(25)] + [f"p{n}/s{n}/{n}.jpg" for n in range(1, 25)]
    found = locate_images(pd.Series(paths), tmp_path, (".",))
    assert found.tolist()[:25] == files
    assert found[25:].isna().all()


@pytest.mark.parametrize("path", ["p1//a.png", "./p1/a.png", "p1/./a.png"])
def test_a_path_written_otherwise_gives_the_same_file(tmp_path, path):
    file = touch(tmp_path / "p1/a.png")
    assert locate_images(pd.Series([path]), tmp_path, (".",)).tolist() == [file]
