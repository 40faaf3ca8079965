"""A server's limits, tokens, numbers, reloads and end."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import threading

import pytest
from broken_clients import broken_clients
from serving_tools import ask, bright, line, png, port_of, serving, told, until
from training_tools import ROOT, child_environment, one_line

from cnnjax.commands.serve import serve
from cnnjax.errors import ConfigError, DataError
from cnnjax.serving import Limits, Service, parse_limits, read_tokens

TOKEN = "a-token-of-some-length"
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\n"


def waiting(event: threading.Event):
    """A network that answers when the event is set, and the sizes of its batches."""
    sizes, own = [], bright()

    def answers(inputs):
        if not (inputs[0] == 0).all():  # not while it is prepared
            sizes.append(len(inputs[0]))
            event.wait(20)
        return own.answers(inputs)

    return bright(answers=answers), sizes


def many(service, count, found):
    """Threads that ask at once; they add what they are told to a list."""
    threads = [threading.Thread(target=lambda: found.append(told(service, "/predict", png()))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_images_that_wait_are_answered_together():
    event, found = threading.Event(), []
    served, sizes = waiting(event)
    with serving(lambda: served, batch=8) as service:
        first = many(service, 1, found)
        until(lambda: sizes == [1])
        rest = many(service, 12, found)
        until(lambda: len(service.state.batches._ready) == 12)
        event.set()
        for thread in (*first, *rest):
            thread.join(20)
        assert sizes == [1, 8, 4] and [status for status, _ in found] == [200] * 13
        assert "cnnjax_batch_images_sum 13.0" in ask(service, "/metrics")[2].decode()


def test_a_client_that_asks_alone_wakes_no_thread_for_its_small_pictures():
    own, threads = bright(), []

    def answers(inputs):
        threads.append(threading.current_thread().name.partition("-")[0])
        return own.answers(inputs)

    small, large, broken = png(), png(size=600), b"no picture"
    with serving(lambda: bright(answers=answers)) as service:
        threads.clear()
        connection = http.client.HTTPConnection("127.0.0.1", port_of(service), timeout=20)
        found = []
        for body in (small, small, large, broken, small):
            connection.request("POST", "/predict", body)
            answer = connection.getresponse()
            found.append((answer.status, answer.read()))
            if answer.status != 200:
                connection.close()
        told(service, "/predict", small)  # by another connection
        connection.close()
        assert [status for status, _ in found] == [200, 200, 200, 422, 200] and found[0] == found[1] == found[4]
        assert threads == ["decode", "Thread", "decode", "decode", "decode"]
        assert "cnnjax_batch_images_sum 5.0" in ask(service, "/metrics")[2].decode()


def test_with_a_latency_an_image_waits_for_others():
    event, found = threading.Event(), []
    event.set()
    served, sizes = waiting(event)
    with serving(lambda: served, batch=4, latency=10.0) as service:
        for thread in many(service, 4, found):
            thread.join(20)
        assert sizes == [4]


def test_too_much_at_once_is_told_to_come_back():
    event, found = threading.Event(), []
    served, _ = waiting(event)
    with serving(lambda: served, requests=2) as service:
        threads = many(service, 2, found)
        until(lambda: service.state.in_flight == 2)
        status, headers, body = ask(service, "/predict", png())
        assert status == 429 and headers["retry-after"] == "1" and b"2 requests" in body
        assert ask(service, "/ready")[0] == 200
        event.set()
        for thread in threads:
            thread.join(20)
        assert [status for status, _ in found] == [200, 200] and told(service, "/predict", png())[0] == 200


def test_slow_and_endless_clients_are_let_go():
    with serving(seconds=0.4, header=2000, bytes=100_000, held=150_000) as service:
        assert line(service, b"").startswith(b"HTTP/1.1 408")
        assert line(service, b"GET / HTT").startswith(b"HTTP/1.1 408")
        assert line(service, HEAD + b"content-length: 10\r\n\r\nabc").startswith(b"HTTP/1.1 408")
        assert line(service, HEAD + b"x: " + b"y" * 3000 + b"\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert line(service, HEAD + b"x: " + b"y" * 600_000)[:12] in (b"", b"HTTP/1.1 431")  # a reset may come before it
        assert line(service, b"\x00garbage\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert line(service, HEAD + b"content-length: 100001\r\n\r\n").startswith(b"HTTP/1.1 413")
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        assert b"413" in line(service, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 4)[:20]
        held = [socket.create_connection(("127.0.0.1", port_of(service)), timeout=10) for _ in range(2)]
        for client in held:
            client.sendall(HEAD + b"content-length: 90000\r\n\r\n" + b"x" * 80_000)
        assert sorted(client.recv(12) for client in held) == [b"HTTP/1.1 408", b"HTTP/1.1 429"]
        for client in held:
            client.close()
        until(lambda: not service._server.server_state.connections)
        assert told(service, "/predict", png())[0] == 200


def test_only_who_has_a_token_is_answered(tmp_path):
    with serving(token=TOKEN) as service:
        for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN):
            for path, body in (
                ("/predict", png()),
                ("/metrics", None),
                ("/model", None),
                ("/reload", b""),
                ("/v2/models/bright", None),
            ):
                status, headers, _ = ask(service, path, body, authorization=wrong)
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert told(service, "/predict", png(), authorization=f"Bearer {TOKEN}")[0] == 200
        for path in ("/", "/page.js", "/page.css", "/health", "/ready", "/v2/health/ready"):
            assert ask(service, path)[0] == 200
    file = tmp_path / "tokens"
    for text in ("", "# none\n", "short\n", "with a space in it\n", "ünicode-in-a-token\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="token_file") as error:
            read_tokens(file)
        one_line(error)
    file.write_text(f"# mine\n\n{TOKEN}\nanother-of-some-length\n")
    assert len(read_tokens(file)) == 2 and read_tokens(file).accept(b"bearer another-of-some-length")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(tmp_path)


def test_pages_of_other_addresses_may_use_it_only_where_that_is_said():
    origin = {"origin": "https://example.org"}
    with serving() as service:
        assert "access-control-allow-origin" not in ask(service, "/predict", png(), **origin)[1]
    with serving(origins=("https://example.org",), token=TOKEN) as service:
        assert ask(service, "/predict", png(), **origin)[1]["access-control-allow-origin"] == "https://example.org"
        preflight = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
        assert ask(service, "/predict", method="OPTIONS", **origin, **preflight)[0] == 200
        assert "access-control-allow-origin" not in ask(service, "/ready", origin="https://other.org")[1]


def test_a_newer_network_takes_over_without_a_gap():
    loads = iter([bright("1"), bright("1"), OSError("gone"), bright("2")])

    def load():
        found = next(loads)
        if isinstance(found, Exception):
            raise found
        return found

    seen, stop = set(), threading.Event()
    with serving(load, token=TOKEN) as service:
        allowed = {"authorization": f"Bearer {TOKEN}"}

        def ask_on():
            while not stop.is_set():
                status, tree = told(service, "/predict", png(), **allowed)
                seen.add((status, tree["model"]["version"]))

        threads = [threading.Thread(target=ask_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert told(service, "/reload", b"", **allowed) == (200, {"reload": "version 1 is still the newest"})
        status, tree = told(service, "/reload", b"", **allowed)
        assert status == 500 and tree["error"] == "reload failed, version 1 stays: OSError: gone"
        assert told(service, "/reload", b"", **allowed) == (200, {"reload": "version 2 answers now, before it 1"})
        until(lambda: (200, "2") in seen)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert seen == {(200, "1"), (200, "2")}
        text = ask(service, "/metrics", **allowed)[2].decode()
        assert 'cnnjax_network_info{name="bright",version="2"} 1.0' in text and 'version="1"' not in text
        assert 'cnnjax_loads_total{result="failed"} 1.0' in text
    with serving() as service:
        assert told(service, "/reload", b"")[0] == 403


def test_it_lives_before_it_is_ready_and_answers_what_has_come_before_its_end():
    loaded, event, found = threading.Event(), threading.Event(), []
    served, sizes = waiting(event)

    def load():
        loaded.wait(20)
        return served

    service = Service(load, port=0)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    until(lambda: service._server.started)
    assert ask(service, "/health")[0] == 200 and ask(service, "/ready")[0] == ask(service, "/v2/health/ready")[0] == 503
    assert ask(service, "/predict", png())[0] == ask(service, "/model")[0] == 503
    loaded.set()
    until(lambda: service.state.is_ready)
    threads = many(service, 3, found)
    until(lambda: service.state.in_flight == 3 and sizes)
    service.stop()
    assert ask(service, "/ready")[0] == 503
    event.set()
    for one in (*threads, thread):
        one.join(20)
    assert [status for status, _ in found] == [200] * 3 and not thread.is_alive()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port_of(service)), timeout=1)


def test_wrong_arguments_are_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for given, error in (
            ({"port": port}, f"cannot listen at 127.0.0.1, port {port}"), ({"host": "no.such.invalid"}, "cannot listen at no.such.invalid"),
            ({"latency": -1.0}, "--latency=-1"), ({"origins": ["example.org"]}, "--origins=example.org"),
            ({"limits": ["byte=3"]}, "--limits=byte=3"), ({"limits": ["bytes=-3"]}, "a whole number above 0"), ({"limits": ["files=1.5"]}, "a whole"),
            ({"limits": "files=8,files=9"}, "has a value already, 8"), ({"limits": {"batch": 10**9}}, "write 1 to 1,024"),
            ({"limits": ["header=9"]}, "write 1,024 to"), ({"port": 99_999}, "from 0 to 65535"),
        ):  # fmt: skip
            with pytest.raises((ConfigError, DataError), match=error) as caught:
                serve(tmp_path, **given)
            one_line(caught)
    (tmp_path / "cells.html").touch()
    with pytest.raises(ConfigError, match=r"is a file, and neither \.onnx nor \.stablehlo"):
        serve(tmp_path / "cells.html")
    assert (
        parse_limits(["bytes=5e6", "seconds=1.5"])
        == parse_limits({"bytes": 5e6, "seconds": 1.5})
        == Limits(bytes=5_000_000, seconds=1.5)
    )


def test_a_run_that_is_not_there_ends_the_server_with_its_error(tmp_path):
    with pytest.raises(Exception, match="no checkpoints in") as caught:
        serve(tmp_path / "none", port=0)
    one_line(caught)


@pytest.mark.slow
def test_the_command_serves_reloads_and_ends_with_0(plain, cell_folder):
    process = subprocess.Popen([sys.executable, "launch.py", "--mode=serve", f"--workdir={plain.workdir}", "--port=0", "--limits=drain=1"], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=child_environment())  # fmt: skip
    with process, contextlib.ExitStack() as last:
        last.callback(process.kill)  # where the test fails, it would wait for ever
        while " at http" not in (said := process.stdout.readline()):
            assert said or process.poll() is None
        service = type("Service", (), {"address": said.partition(" at ")[2].split()[0]})
        data = sorted(cell_folder.rglob("*.png"))[0].read_bytes()
        assert told(service, "/predict", data)[0] == 200
        assert "test images" in told(service, "/model")[1]["card"]["lines"][0]
        process.send_signal(signal.SIGHUP)
        assert "is still the newest" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        until(lambda: ask(service, "/ready")[0] == 503)
        assert told(service, "/predict", data)[0] == 200  # others may not know yet that it ends
        assert "every request that had come was answered" in process.stdout.read()
        assert process.wait(20) == 0


@pytest.mark.slow
def test_broken_clients_leave_nothing_behind():
    with serving(seconds=1.0) as service:
        assert broken_clients(service, 5) == 0
        until(lambda: not service._server.server_state.connections)
        assert service.state.in_flight == 0 and not service._server.server_state.tasks
        assert told(service, "/predict", png())[0] == 200
