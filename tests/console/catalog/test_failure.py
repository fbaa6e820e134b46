"""What people read of a load that failed: own words, and what to do; what a library says stays in the log."""

from __future__ import annotations

import pytest

from console.catalog.failure import NEVER, Failure, failure_of, reason_of, told
from console.catalog.files import FilesChanged
from console.catalog.models import Deployment
from console.catalog.queries import list_served_models
from console.deployments import observed_state
from inference.checkpoints.model_folder import CannotLoad, NotServed, TooLittleMemory, UnsafeModel
from inference.protocol.stats import ModelCard
from tests.catalog_rows import serve

ERRORS: list[tuple[Exception, Failure]] = [
    (NotServed("BertModel: embeddings"), Failure.KIND),
    (UnsafeModel("a link that leaves"), Failure.FILES),
    (FilesChanged("config.json has changed"), Failure.FILES),
    (TooLittleMemory("the pool"), Failure.MEMORY),
    (CannotLoad("max_model_len is 9"), Failure.SETTINGS),
    (KeyError("torch.bfloat16"), Failure.ERROR),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), Failure.ERROR),
    (ValueError("Unrecognized configuration class"), Failure.ERROR),
]


@pytest.mark.parametrize(("error", "failure"), ERRORS)
def test_every_failure_has_its_class(error: Exception, failure: Failure) -> None:
    assert failure_of(error) is failure
    assert (str(error) in reason_of(error)) == (failure is not Failure.ERROR)
    assert told(failure) and str(error) not in told(failure)


def test_what_nobody_foresaw_says_what_to_do_and_nothing_of_the_library() -> None:
    reason = reason_of(KeyError("torch.bfloat16"))
    assert "torch.bfloat16" not in reason and "KeyError" in reason
    assert "log" in reason and "import the model anew" in reason


@pytest.mark.django_db
def test_what_can_never_be_loaded_is_not_listed_until_it_was_loaded_after_all() -> None:
    serve("fine", "fine-1")
    serve("bad", "bad-1")
    for failure in Failure:
        observed_state.failed("bad-1", "why", failure)
        names = {one.name for one in list_served_models()}
        assert names == ({"fine"} if failure in NEVER else {"fine", "bad"})
    observed_state.failed("bad-1", "why", Failure.KIND)
    observed_state.reset()  # a server that starts anew knows it still
    assert {one.name for one in list_served_models()} == {"fine"}
    card = ModelCard("bad-1", "stub", 10, 10, True, None, "float32", "cpu", 0, True)
    observed_state.ready(card, load_seconds=1.0)
    assert {one.name for one in list_served_models()} == {"fine", "bad"}
    assert Deployment.objects.get(pk="bad-1").failure == ""
