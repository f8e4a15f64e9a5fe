"""What a trial says on its way to the store. Training never waits for the database."""

from __future__ import annotations

import logging
import threading

from trials.errors import LeaseLostError, StoreUnavailableError, TrialsError
from trials.store import CHECKPOINT, TrialStore
from trials.trial import Claim, Report

RETRY_SECONDS = 1.0
log = logging.getLogger("larnn.worker")


class Outbox:
    """Writes one attempt's reports and blobs in the background.

    Through an outage everything is kept: all reports, and of each kind of blob the newest. Reports
    go first: an attempt that resumes from a checkpoint finds the reports of all steps before it.
    """

    def __init__(self, store: TrialStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._reports: list[Report] = []
        self._blobs: dict[str, bytes] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.lost = False
        """The claim is stale: nothing more will be written."""
        self.error: str | None = None
        """Why the store refused something for good."""

    def add_report(self, report: Report) -> None:
        """Take a report."""
        with self._changed:
            self._reports.append(report)
            self._wake()

    def add_blob(self, kind: str, data: bytes) -> None:
        """Take a blob, in place of an older one of its kind."""
        with self._changed:
            self._blobs[kind] = data
            self._wake()

    def _wake(self) -> None:
        # Started with the first thing to write: a trial that reports nothing needs no thread.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
            self._thread.start()
        self._changed.notify()

    def flush(self) -> None:
        """Take nothing more; wait until all is written, or lost."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def discard(self) -> None:
        """Drop what is not yet written: the attempt's word counts no more."""
        with self._changed:
            self._closed = self.lost = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._reports or self._blobs or self._closed)
                reports, self._reports = self._reports, []
                blobs, self._blobs = self._blobs, {}
                if self.lost or not (reports or blobs):
                    return
            try:
                self._write(reports, blobs)
            except StoreUnavailableError as error:
                log.warning("trial %s of %s: %s", self._claim.number, self._claim.study, error)
                self._put_back(reports, blobs)
            except LeaseLostError:
                self.lost = True
                return
            except TrialsError as error:
                self.error = str(error)
            except Exception as error:
                log.exception("trial %s of %s", self._claim.number, self._claim.study)
                self.error = f"what it reported cannot be kept: {error}"

    def _write(self, reports: list[Report], blobs: dict[str, bytes]) -> None:
        """Send to the store; what arrived is taken off the arguments."""
        if self.error is not None:
            # A trial that resumed from here would lack the reports that were refused.
            blobs.pop(CHECKPOINT, None)
        elif reports:
            self._store.report(self._claim, reports)
            reports.clear()
        for kind in list(blobs):
            self._store.save_blob(self._claim, kind, blobs[kind])
            del blobs[kind]

    def _put_back(self, reports: list[Report], blobs: dict[str, bytes]) -> None:
        with self._changed:
            self._reports = reports + self._reports
            self._blobs = blobs | self._blobs
            self._changed.wait(RETRY_SECONDS)
