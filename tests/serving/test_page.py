"""The page of a server, in Chromium: by mouse, by keyboard, with a token, and what it shows of hostile names."""

from serving_tools import CLASSES, bright, png, serving

TOKEN = "a-token-of-some-length"


def file(name: str, data: bytes) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def test_pictures_are_classified_and_nothing_runs_that_a_name_holds(browser):
    with serving() as service:
        page, problems = browser.new_page(viewport={"width": 360, "height": 740}), []
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" and "422" not in message.text else None,
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(service.address)
        page.get_by_text("Choose pictures").wait_for()
        assert (
            page.locator("#about").inner_text() == f"dark, {CLASSES[1]}; {CLASSES[1]} is called from 50.0 % on. Version 1."
        )
        assert page.locator("#lines").inner_text().split("\n") == ["It is right.", "", "Not <i>always</i>."]
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        page.locator("#files").set_input_files(
            [file("<img src=x onerror=alert(1)>.png", png(255)), file("b.png", png(20)), file("c.png", b"garbage")]
        )
        page.get_by_text("3 of 3 pictures done").wait_for()
        titles = page.locator("article h2").all_inner_texts()
        assert titles == ["Not classified", "dark", CLASSES[1]]
        assert "not an image" in page.locator("article").first.inner_text()
        last = page.locator("article").last
        assert (
            last.locator(".sure").inner_text() == "100.00 %: sure" and "do not rely" in last.locator(".warning").inner_text()
        )
        assert last.locator(".bar.called").inner_text().split("\n")[0] == CLASSES[1]
        assert last.locator("figcaption").first.inner_text() == "<img src=x onerror=alert(1)>.png"
        last.get_by_role("button").focus()
        page.keyboard.press("Enter")
        last.locator(".places").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not problems
        page.goto(f"{service.address}/docs")
        assert page.locator("h2").first.inner_text() == "POST /predict" and not problems
        page.close()


def test_the_page_asks_for_a_token(browser):
    with serving(lambda: bright(seen=None), token=TOKEN) as service:
        page = browser.new_page()
        page.goto(service.address)
        page.locator("#token").fill("wrong-token-of-some-length")
        page.keyboard.press("Enter")
        page.get_by_text("this token is not accepted").wait_for()
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_text("Choose pictures").wait_for()
        page.locator("#files").set_input_files(file("a.png", png(20)))
        page.get_by_text("it is called dark").wait_for()
        assert not page.locator(".look").is_visible()
        page.close()
