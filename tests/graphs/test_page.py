import json
import re

import pytest
import torch
from helpers.browser import as_phone, browser, errors

from rstg_pyg.graphs import attention_page, multiscale_grid

GRID = multiscale_grid((3, 2, 1))
TARGET = GRID.edge_index[1]
EVEN = 1 / TARGET.bincount()[TARGET].float()


def attended(node):
    """Even coefficients, but all neighbors of a node attend to nothing else."""
    alpha = EVEN.clone()
    for other in TARGET[GRID.edge_index[0] == node].tolist():
        alpha[other == TARGET] = (GRID.edge_index[0][other == TARGET] == node).float()
    return alpha


def page(**arguments):
    """Two time steps in eight frames: even attention, then all listen to region 2 in one round."""
    pytest.importorskip("PIL", reason="frames need Pillow")
    first = torch.stack([EVEN, attended(2)])[..., None]  # [T, E, heads]
    second = EVEN[None, :, None].expand(2, -1, 2)
    colors = torch.tensor([200, 40, 40], dtype=torch.uint8).expand(8, 60, 80, 3).clone()
    colors[4:] = torch.tensor([40, 40, 200], dtype=torch.uint8)
    arguments = dict(
        region=GRID.region, node_type=GRID.node_type, type_names=["3", "2", "1"], frames=colors,
        probabilities=torch.tensor([[0.2, 0.7, 0.1], [0.9, 0.1, 0.0]]), classes=["up", "<i>", "down"],
        title="</script><b>one</b>", names=[f"region {i}" for i in range(14)],
    ) | arguments  # fmt: skip
    return attention_page(GRID.edge_index, [first, second], GRID.pos, **arguments)


def skeleton():
    """Four joints in a row that move. Joint 2 prefers joint 0 in one of two heads; joint 3 is absent
    for it."""
    edges = torch.tensor([[0, 1, 1, 2, 2, 3, 0], [1, 0, 2, 1, 3, 2, 2]])
    alpha = torch.tensor([1.0, 1, 0.1, 0, 1, 0, 0.9]).expand(3, -1)
    other = torch.tensor([0.5, 1, 0.5, 0.5, 1, 0, 0.5]).expand(3, -1)
    pos = torch.tensor([[0.0, 5], [10, 5], [20, 5], [30, 5]]) + torch.arange(3.0).view(3, 1, 1)
    return attention_page(edges, torch.stack([alpha, other], -1), pos, seconds=[0, 0.5, 1])


def content(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


def test_the_page_is_complete_in_itself_and_escapes_texts():
    text = page()
    found = content(text)
    assert found["title"] == "</script><b>one</b>" and "<b>one" not in text
    assert "<title>&lt;/script&gt;&lt;b&gt;one&lt;/b&gt;</title>" in text and "{{" not in text
    assert not re.search(r"(src|href)\s*=\s*[\"']|url\(|import\b", text)
    assert "default-src 'none'" in text
    assert found["classes"] == ["up", "<i>", "down"] and found["steps"] == [2, 6]
    assert len(found["frames"]) == 8 and len(text) < 60_000


def test_frames_fit():
    noise = torch.randint(256, (40, 240, 320, 3), dtype=torch.uint8)
    assert 500_000 < len(page(frames=noise)) < 3_000_000
    with pytest.raises(ValueError, match="Expected fewer frames: a page holds 2 MB of them"):
        page(frames=noise[:1].expand(2000, -1, -1, -1)[:, :160])


def still(alpha, pos):
    return attention_page(GRID.edge_index, alpha, pos)


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: still(EVEN[:9, None], GRID.pos), r"\[T, 90, heads\] .*\(got \[9, 1"),
        (lambda: still(EVEN, GRID.pos), r"\[90, heads\] \(got \[90\]\); .*unsqueeze"),
        (lambda: still(EVEN.expand(3, -1), GRID.pos), r"\[90, heads\] \(got \[3, 90\]\)"),
        (lambda: still(EVEN[:, None], GRID.pos[:, :1]), r"\[1, 14, 2\] \(got"),
        (lambda: still(EVEN[:, None] / 2, GRID.pos), r"sum to 1 .*\(got 0.5 for node"),
        (lambda: page(names=["one"]), "14 entries of 'names'"),
        (lambda: page(classes=["up"]), "3 entries of 'classes'"),
        (lambda: page(frames=torch.rand(8, 4, 4, 3)), "uint8"),
    ],
)  # fmt: skip
def test_mistakes_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def opened(chromium, tmp_path):
    def load(text):
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        chromium.get((tmp_path / "page.html").as_uri())
        chromium.execute_async_script("Promise.all(images.map(i => i.decode())).then(arguments[0])")
        chromium.execute_script("show()")
        return chromium

    yield load
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def text_of(chromium, name):
    return chromium.find_element("id", name).text


def pixel(chromium, x, y):
    """The color at fractions of the drawing."""
    at = f"{x} * canvas.width, {y} * canvas.height"
    return chromium.execute_script(f"return [...pen.getImageData({at}, 1, 1).data]")[:3]


def picture(chromium):
    return chromium.execute_script("return canvas.toDataURL()")


def press(chromium, keys):
    chromium.find_element("tag name", "body").send_keys(keys)


def click(chromium, x, y):
    """A click at fractions of the drawing."""
    canvas = chromium.find_element("id", "picture")
    actions = pytest.importorskip("selenium.webdriver").ActionChains(chromium)
    size = canvas.size
    actions.move_to_element_with_offset(
        canvas, int((x - 0.5) * size["width"]), int((y - 0.5) * size["height"])
    ).click().perform()


@pytest.mark.slow
def test_a_clip_in_the_browser(opened):
    chromium = opened(page())
    assert errors(chromium) == []
    assert text_of(chromium, "title") == "</script><b>one</b>"
    # The first step is even: no arrows, and it says so. The video is as bright as it is.
    assert "no preference: " in text_of(chromium, "listens-note")
    assert "no preference: " in text_of(chromium, "heard-note")
    assert pixel(chromium, 0.04, 0.5) == pytest.approx([200, 40, 40], abs=12)
    assert text_of(chromium, "legend").split("\n") == ["up", "20.0%", "<i>", "70.0%", "down", "10.0%"]

    # A time later all listen to region 2, at the upper right.
    before = picture(chromium)
    chromium.execute_script("$('time').value = 6; $('time').oninput()")
    assert text_of(chromium, "caption") == "7 of 8, 1.50 s" and picture(chromium) != before
    assert pixel(chromium, 0.04, 0.5) == pytest.approx([40, 40, 200], abs=12)
    assert text_of(chromium, "legend").startswith("up\n90.0%")
    before = picture(chromium)
    click(chromium, 0.9, 0.1)
    assert text_of(chromium, "name") == "region 2" and picture(chromium) != before
    assert "no preference" in text_of(chromium, "listens-note")
    heard = text_of(chromium, "heard").split("\n")
    degree = TARGET.bincount()[TARGET[GRID.edge_index[0] == 2]]
    assert len(heard) == 2 * min(6, len(degree))
    assert heard[1] == f"{(1 + float(degree.max())) / 2:.1f}\u00d7"  # the mean of all and even

    # One round alone, which is even; then the other.
    chromium.execute_script("$('layer').value = 1; $('layer').onchange()")
    assert text_of(chromium, "heard") == ""
    chromium.execute_script("$('layer').value = 0; $('layer').onchange()")
    assert text_of(chromium, "heard").split("\n")[1] == f"{float(degree.max()):.0f}\u00d7"

    # Another scale; a row is a way to another node.
    chromium.execute_script("$('type').value = 2; $('type').onchange()")
    click(chromium, 0.9, 0.1)
    assert text_of(chromium, "name") == "region 13"
    chromium.find_element("css selector", "#listens button").click()
    assert text_of(chromium, "name") == "region 2"
    assert errors(chromium) == []


@pytest.mark.slow
def test_keys_and_playing(opened):
    chromium = opened(page(seconds=[0.02 * i for i in range(8)]))
    right, left = "\ue014", "\ue012"
    press(chromium, right + right + left)
    assert chromium.execute_script("return state.frame") == 3  # from the first step's frame
    press(chromium, ".")
    assert chromium.execute_script("return state.frame") == 6
    press(chromium, ",")
    assert chromium.execute_script("return state.frame") == 2
    press(chromium, "n")
    first = text_of(chromium, "name")
    press(chromium, "n")
    assert text_of(chromium, "name") != first
    press(chromium, " ")
    chromium.set_script_timeout(10)
    chromium.execute_async_script(
        "const done = arguments[0], look = setInterval("
        "() => { if (state.frame === 7) { clearInterval(look); done(); } }, 5)"
    )
    press(chromium, " ")
    assert chromium.execute_script("return state.timer") == 0
    press(chromium, "\ue00c")
    assert text_of(chromium, "name") == "Click a node" and errors(chromium) == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_moving_joints_on_a_phone(opened, chromium, scheme):
    as_phone(chromium, scheme)
    opened(skeleton())
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
    brightness = sum(pixel(chromium, 0.02, 0.05)) or sum(
        map(int, re.findall(r"\d+", chromium.find_element("tag name", "body").value_of_css_property(
            "background-color"))[:3])
    )  # fmt: skip
    assert (brightness > 500) == (scheme == "light")
    before = picture(chromium)
    chromium.execute_script("pause(2)")
    assert picture(chromium) != before  # they have moved
    chromium.execute_script("const [x, y] = place(2); canvas.onclick({offsetX: x + 5, offsetY: y - 5})")
    assert text_of(chromium, "name") == "node 2"
    assert text_of(chromium, "listens").split("\n") == ["node 0", "1.4\u00d7", "node 1", "0.6\u00d7"]
    chromium.execute_script("$('head').value = 1; $('head').onchange()")
    assert "no preference: 2 neighbors" in text_of(chromium, "listens-note")
    chromium.execute_script("select(0)")
    assert text_of(chromium, "listens-note") == "its only neighbor: node 1"
    assert errors(chromium) == []
