from cxrlt.reports.page import PageFigure, PageTable, Section, write_page

NAME = 'a <b>$5</b> & "x"'
ESCAPED = "a &lt;b&gt;$5&lt;/b&gt; &amp; &#34;x&#34;"


def test_names_are_escaped_on_the_page(tmp_path):
    (tmp_path / "figure.png").write_bytes(b"png")
    table = PageTable(f"{NAME} caption", [f"{NAME} heading"], [[f"{NAME} cell"]])
    figure = PageFigure(f"{NAME} figure", tmp_path / "figure.png")
    section = Section(f"{NAME} section", [f"{NAME} paragraph"], [table], [figure])
    write_page(tmp_path / "page.html", f"{NAME} title", [section])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in ("title", "section", "paragraph", "caption", "heading", "cell", "figure"):
        assert f"{ESCAPED} {part}" in page
    assert "<b>" not in page
