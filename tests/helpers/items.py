"""Invented items of tasks as their datasets have them, and a model that scores any text by its hash."""

import hashlib

from lm_eval.api.model import LM

NOUNS = ["kettle", "lantern", "harbour", "ladder", "violin", "orchard", "saddle", "compass", "anvil", "feather"]


class HashLM(LM):
    """Scores every request by a hash of its text: equal requests, and only they, get equal scores."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list = []

    def _score(self, request) -> float:
        self.requests.append(request.args)
        digest = hashlib.sha256(repr(request.args).encode()).digest()
        return -int.from_bytes(digest[:4], "big") / 2**32 * 20

    def loglikelihood(self, requests):
        return [(score := self._score(request), score > -8) for request in requests]

    def loglikelihood_rolling(self, requests):
        return [self._score(request) for request in requests]

    def generate_until(self, requests):
        return [f"It makes #### {int(-self._score(request))}" for request in requests]


def lambada_item(number: int) -> dict:
    return {"text": f"Item {number}: she put the {NOUNS[number % 10]} back where she had found the {NOUNS[number % 7]}"}


def arc_item(number: int) -> dict:
    answers = [NOUNS[(number + shift) % 10] for shift in range(4)]
    return {
        "id": str(number),
        "question": f"Which of these is thing number {number}?",
        "choices": {"text": answers, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }


def hellaswag_item(number: int) -> dict:
    return {
        "ind": number,
        "activity_label": "Packing",
        "ctx_a": f"A woman [title] lifts the {NOUNS[number % 10]}.",
        "ctx_b": "then she",
        "ctx": "",
        "endings": [f"drops {noun} {number}." for noun in NOUNS[:4]],
        "label": str(number % 4),
    }


def winogrande_item(number: int) -> dict:
    return {
        "sentence": f"Ada gave Bea the {NOUNS[number % 10]} number {number} because _ had asked for it.",
        "option1": "Ada",
        "option2": "Bea",
        "answer": str(number % 2 + 1),
    }


def gsm8k_item(number: int) -> dict:
    return {"question": f"What is {number} and {number}?", "answer": f"It is {2 * number}.\n#### {2 * number}"}


ITEMS = {
    "lambada_openai": lambada_item,
    "arc_challenge": arc_item,
    "arc_easy": arc_item,
    "hellaswag": hellaswag_item,
    "winogrande": winogrande_item,
    "gsm8k": gsm8k_item,
}
