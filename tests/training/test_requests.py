"""Requests to save and to stop."""

import jax
import numpy as np

from cnnjax import runtime
from cnnjax.training.requests import Request, Requests, SharedRequests, open_requests


def test_a_process_that_is_alone_hears_itself_at_once_and_dispatches_nothing():
    asked = iter([Request.NONE, Request.STOP])
    requests = open_requests(lambda: next(asked), runtime.mesh(), 1)
    assert type(requests) is Requests and requests.lag == 0
    assert requests.heard() == Request.NONE
    assert requests.send() is None
    requests.receive(None)
    assert requests.heard() == Request.STOP


def test_several_processes_hear_the_largest_request_once_it_has_come_back():
    own = Request.NONE
    requests = SharedRequests(lambda: own, runtime.mesh(), 4)
    own = Request.SAVE
    sent = requests.send()
    assert requests.heard() == Request.NONE  # not before the metrics of the step
    assert isinstance(sent, jax.Array) and sent.dtype == np.int32
    own = Request.STOP
    requests.receive(sent)
    assert requests.heard() == Request.SAVE and requests.lag == 8
    requests.receive(requests.send())
    assert requests.heard() == Request.STOP


def test_stopping_comes_before_saving():
    assert max(Request) == Request.STOP > Request.SAVE > Request.NONE == 0
