"""The card of a run, and the answer at the top of its page."""

import pytest
from run_files import tiny_rows, write_run

from cnnjax import config as config_lib
from cnnjax.commands.report import write_card
from cnnjax.errors import CheckpointError
from cnnjax.evidence import write_evidence
from cnnjax.pages.answer import answer
from cnnjax.pages.card import OWN, QUESTIONS, answers
from cnnjax.pages.record import read_record


@pytest.fixture
def run(tmp_path):
    made = write_run(tmp_path / "run", tiny_rows())
    write_evidence(made, "test", config_lib.Evidence())
    return made


def test_the_answer_says_how_good_for_whom_and_how_sure(run):
    told = [note.text for note in answer(read_record(run))]
    assert told[0] == "Of 60 test images of 12 patients, 76.7 % (62.1 to 86.8) are called right."
    assert (
        told[1] == "It finds 70.4 % (46.9 to 86.5) of the pos images and calls 81.8 % (46.9 to 95.8) of the others rightly."
    )
    assert "11 of the 12 count, because some have most" in told[2]


def test_too_few_patients_are_told_with_what_to_do(tmp_path):
    few = [row for row in tiny_rows() if row[1] < "P08"]
    made = write_run(tmp_path / "run", few)
    write_evidence(made, "test", config_lib.Evidence())
    told = " ".join(note.text for note in answer(read_record(made)))
    assert (
        "How sure that is cannot be said: 7 patients, of which" in told
        and "--mode=crossvalidate judges all 7 patients" in told
    )


def test_what_was_filled_in_stays(run):
    card, left = write_card(run)
    assert left == list(QUESTIONS) and "76.7 % (62.1 to 86.8)" in card.read_text()
    text = card.read_text().replace(
        "(approval, consent, privacy):", "(approval, consent, privacy): IRB 12/34;\n  consent was given"
    )
    card.write_text(text + "\nMy own words: *kept*.\n")
    again, left = write_card(run)
    assert again.read_text().count("IRB 12/34;\n  consent was given") == 1
    assert again.read_text().rstrip().endswith(f"{OWN}\n\nMy own words: *kept*.")
    assert "Ethics and consent" not in left and len(left) == len(QUESTIONS) - 1
    assert "Ethics and consent" not in again.read_text().split("\n")[4]
    assert "lines to fill in: Intended use" in run.report.read_text()
    assert write_card(run)[0].read_text() == again.read_text()


def test_a_file_of_the_users_own_is_not_overwritten(run):
    run.card.write_text("my notes")
    with pytest.raises(CheckpointError, match="not a card of cnnjax and is not overwritten; rename it"):
        write_card(run)
    assert run.card.read_text() == "my notes"


def test_a_run_without_an_evaluation_has_no_card(run):
    run.evaluation("test").unlink()
    run.sealed.forget(run.evaluation("test"))
    with pytest.raises(CheckpointError, match="has no evaluation yet; train on, or write one with --mode=eval"):
        write_card(run)


def test_answers_end_at_the_next_line(run):
    assert answers("- **Eligibility** (x): all\n  of them\n- **Licence of the data** (y):\n## Data\n") == {
        "Eligibility": "all\n  of them"
    }
