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
    monkeypatch.setattr(locate, "FOLDERS_PER_TASK", 3)
    files = [touch(tmp_path / f"p{n // 4}/s{n}/{n}.jpg") for n in range(25)]
    paths = [f"p{n // 4}/s{n}/{n}.jpg" for n in range(25)] + [f"p{n}/s{n}/{n}.jpg" for n in range(1, 25)]
    found = locate_images(pd.Series(paths), tmp_path, (".",))
    assert found.tolist()[:25] == files
    assert found[25:].isna().all()


@pytest.mark.parametrize("path", ["p1//a.png", "./p1/a.png", "p1/./a.png"])
def test_another_spelling_of_a_path_gives_the_same_file(tmp_path, path):
    file = touch(tmp_path / "p1/a.png")
    assert locate_images(pd.Series([path]), tmp_path, (".",)).tolist() == [file]


@pytest.mark.parametrize(
    ("in_table", "on_disk"),
    [
        ("a.png", "a.PNG"),
        ("P1/Case.JPG", "p1/case.jpg"),
        ("p1\\s1\\a.png", "p1/s1/a.png"),
        (".\\p1\\a.png", "p1/a.png"),
        ("Jos\u00e9/na\u00efve.png", "Jose\u0301/nai\u0308ve.png"),
        ("Jose\u0301/a.png", "Jos\u00e9/A.png"),
    ],
)
def test_a_file_that_differs_only_in_spelling_is_found_with_a_message(tmp_path, capsys, in_table, on_disk):
    file = touch(tmp_path / on_disk)
    other = touch(tmp_path / "b.png")
    assert locate_images(pd.Series([in_table, "b.png"]), tmp_path, (".",)).tolist() == [file, other]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "1 image file has another spelling" in said
    assert repr(in_table) in said
    assert repr(on_disk) in said


def test_exact_names_need_no_search_for_spellings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(locate, "_other_spellings_below", None)
    files = [touch(tmp_path / "a.png"), touch(tmp_path / "A.png")]
    assert locate_images(pd.Series(["a.png", "A.png"]), tmp_path, (".",)).tolist() == files
    assert not capsys.readouterr().err


def test_only_differences_in_spelling_are_ignored(tmp_path, capsys):
    touch(tmp_path / "p1/a.png")
    (tmp_path / "B.png").mkdir()
    paths = pd.Series(["p1/a.jpg", "p1/ab.png", "p1a.png", "b.png", "p2/a.png", "p1/a.png/c.png", "p1"])
    assert locate_images(paths, tmp_path, (".",)).isna().all()
    assert not capsys.readouterr().err


def test_a_path_that_matches_two_files_is_a_user_error(tmp_path):
    touch(tmp_path / "p1/A.png")
    touch(tmp_path / "P1/a.PNG")
    with pytest.raises(UserError, match=r"'p1/a.png' \(P1/a\.PNG or p1/A\.png\)\. .*ename"):
        locate_images(pd.Series(["p1/a.png"]), tmp_path, (".",))


def test_two_paths_that_match_one_file_are_a_user_error(tmp_path):
    touch(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"'A\.png' and 'a\.PNG' \(a\.png\)"):
        locate_images(pd.Series(["A.png", "a.PNG"]), tmp_path, (".",))


def test_rows_of_one_path_share_its_file(tmp_path):
    file = touch(tmp_path / "a.png")
    assert locate_images(pd.Series(["A.png", "A.png"]), tmp_path, (".",)).tolist() == [file, file]


def test_an_exactly_named_file_matches_no_other_row(tmp_path, capsys):
    file = touch(tmp_path / "a.png")
    found = locate_images(pd.Series(["a.png", "A.png"]), tmp_path, (".",))
    assert found[0] == file
    assert pd.isna(found[1])
    assert not capsys.readouterr().err


def test_the_first_folder_that_holds_another_spelling_counts(tmp_path):
    file = touch(tmp_path / "images_001/images/a.PNG")
    touch(tmp_path / "images/A.png")
    assert locate_images(pd.Series(["a.png"]), tmp_path, NIH_FOLDERS).tolist() == [file]
