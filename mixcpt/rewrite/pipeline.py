"""Rewriting from end to end: passages, requests, generation, checks, and a corpus with the accepted texts."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixcpt.config.rewrite import EndpointGenerator, FilesGenerator, RewriteConfig
from mixcpt.errors import DataError
from mixcpt.rewrite.account import write_account
from mixcpt.rewrite.checks import Vocabulary
from mixcpt.rewrite.forms import Form, load_forms, load_judge
from mixcpt.rewrite.generators import Texts, generator_identity, open_generator
from mixcpt.rewrite.keys import rewrite_key
from mixcpt.rewrite.made_elsewhere import read_answers
from mixcpt.rewrite.memory import Generated, Memory
from mixcpt.rewrite.passages import Document, cut_passages
from mixcpt.rewrite.requests import Request, plan_requests
from mixcpt.rewrite.texts import Text, check_texts, judge_requests, judged
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

DOCUMENTS = "documents.parquet"
_YES = ("yes", "ja", "oui", "sí", "si", "true", "是")
_log = logging.getLogger("mixcpt.rewrite")


def rewrite(
    config: RewriteConfig, corpus: ArtifactRef, base: ModelRef, *, seed: int, store: ArtifactStore, tracker: Tracker
) -> ArtifactRef:
    """Produce a corpus with generated texts in the pool `domain`, and return its reference.

    It has all files of the curated corpus; its documents are the curated ones and the accepted texts, whose
    column `document` names the document they are about. `texts.parquet` has every generated text with the rule that
    rejected it.

    Raises:
        ConfigError: If a form does not exist, or an endpoint refuses the requests.
        DataError: If a passage does not fit the generator, or no text passes the checks.
        StageInterrupted: If an endpoint does not answer.
    """
    forms = load_forms(config.forms)

    def build(folder: Path) -> Metrics:
        work = _Work(config, forms, base, seed=seed, store=store, tracker=tracker)
        documents = read_documents(corpus)
        texts = work.texts(documents)
        if not any(text.rejection is None for text in texts):
            raise DataError(_nothing_left(texts), "look at the texts, and try another generator or other forms")
        for name in corpus.record["files"]:
            if name != DOCUMENTS:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(corpus.file(name), folder / name)
        _write_documents(folder / DOCUMENTS, corpus, texts)
        characters = sum(len(document.text) for document in documents)
        return write_account(folder, texts, document_characters=characters, usage=work.usage, money=work.money)

    key = rewrite_key(config, forms, corpus, base, seed=seed)
    return store.produce(key, build, lineage={"corpus": corpus.to_json(), "base": base.to_json()})


def read_documents(corpus: ArtifactRef) -> list[Document]:
    """Return the training documents of the domain, in the order of the corpus."""
    rows = pq.read_table(corpus.file(DOCUMENTS), filters=[("pool", "==", "domain")]).to_pylist()
    return [
        Document(id=row["doc_id"], source=row["source"], title=row["title"] or "", text=row["text"]) for row in rows
    ]


class _Work:
    """The generation of one stage, with the tokens that it used."""

    def __init__(
        self,
        config: RewriteConfig,
        forms: Sequence[Form],
        base: ModelRef,
        *,
        seed: int,
        store: ArtifactStore,
        tracker: Tracker,
    ) -> None:
        self._config, self._forms, self._base, self._seed, self._tracker = config, forms, base, seed, tracker
        self._identity = generator_identity(config, base)
        self._memory = Memory(store.root, self._identity)
        self._open: Texts | None = None
        self.usage: dict[str, int] = {"tokens_read": 0, "tokens_written": 0, "reused": 0}

    @property
    def money(self) -> float:
        """Price of the tokens so far; 0 for generators without prices."""
        generator = self._config.generator
        if not isinstance(generator, EndpointGenerator):
            return 0.0
        read = self.usage["tokens_read"] * generator.price_per_million_read
        return (read + self.usage["tokens_written"] * generator.price_per_million_written) / 1e6

    def texts(self, documents: Sequence[Document]) -> list[Text]:
        """Return all texts about the documents, with the reason of every rejection."""
        config = self._config
        passages = list(cut_passages(documents, config.passage_characters, config.overlap_characters))
        requests = plan_requests(passages, self._forms, config.amount, self._seed)
        keyed = {self._key(request): request for request in requests}
        _log.info("%d passages of %d documents, %d texts to write", len(passages), len(documents), len(keyed))
        if isinstance(config.generator, FilesGenerator):
            answers = read_answers(config.generator, documents, self._forms)
        else:
            known = self._answers(keyed, "texts")
            answers = [(request, known[key]) for key, request in keyed.items()]
        texts = check_texts(answers, vocabulary=Vocabulary.of(documents), config=config.faithfulness, separator="\n")
        can_judge = not isinstance(config.generator, FilesGenerator)
        return self._judge(texts) if config.faithfulness.judge == "generator" and can_judge else texts

    def _judge(self, texts: Sequence[Text]) -> list[Text]:
        judge = load_judge(self._config.faithfulness.judge_form)
        questions = judge_requests(texts, judge)
        keyed = {self._key(request): request for request in chain.from_iterable(questions.values())}
        answers = self._answers(keyed, "checks")
        decided: list[Text] = []
        for text in texts:
            requests = questions.get((text.key, text.part), [])
            verdicts = [(request.statement, _agrees(answers[self._key(request)].text)) for request in requests]
            decided.append(judged(text, verdicts))
        return decided

    def _key(self, request: Request) -> str:
        return request.key(self._identity, self._seed)

    def _answers(self, requests: Mapping[str, Request], what: str) -> dict[str, Generated]:
        """Return the answers to requests by key: those in the memory, and the missing ones from the generator."""
        known = self._memory.read()
        missing = {key: request for key, request in requests.items() if key not in known}
        self.usage["reused"] += len(requests) - len(missing)
        done = len(requests) - len(missing)
        if missing:
            self._open = self._open or open_generator(self._config, self._base)
            for answers in self._open.answers(missing):
                self._memory.add(answers)
                known |= {answer.key: answer for answer in answers}
                done += len(answers)
                self.usage["tokens_read"] += sum(answer.tokens_read for answer in answers)
                self.usage["tokens_written"] += sum(answer.tokens_written for answer in answers)
                self._tracker.log(done, {f"rewrite/{what}": done / len(requests)}, total_steps=len(requests))
        return known


def _agrees(answer: str) -> bool:
    words = answer.lower().replace("*", " ").split()
    return bool(words) and words[0].strip(".,:;!\"'") in _YES


def _write_documents(path: Path, corpus: ArtifactRef, texts: Sequence[Text]) -> None:
    """Write the documents of a corpus, followed by the accepted texts."""
    curated = pq.read_table(corpus.file(DOCUMENTS))
    blank = pa.array([""] * curated.num_rows, pa.large_string())
    curated = curated.append_column("document", blank).append_column("form", blank)
    accepted = [text for text in texts if text.rejection is None]
    rows = [
        {
            "doc_id": text.id,
            "source": f"{text.request.passage.document.source}.{text.request.form.name.replace('/', '.')}",
            "pool": "domain",
            "title": text.request.passage.document.title,
            "text": text.text,
            "document": text.request.passage.document.id,
            "form": text.request.form.name,
        }
        for text in accepted
    ]
    pq.write_table(
        pa.concat_tables([curated, pa.Table.from_pylist(rows, schema=curated.schema)]), path, compression="zstd"
    )


def _nothing_left(texts: Sequence[Text]) -> str:
    first = [f"\n  {text.id}: {text.rejection.rule}: {text.text[:80]!r}" for text in texts[:3] if text.rejection]
    return f"rewrite: none of the {len(texts)} generated texts passed the checks{''.join(first)}"
