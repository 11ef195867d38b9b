"""Random faults in the whole service, and a count afterwards: nothing lost, nothing duplicated.

    python -m bench.chaos [--rounds 100] [--seed 1]

Each round requests segmentations and breaks something: kills a worker or the API, stops, kills or freezes
Orthanc, PostgreSQL or Redis, sends a message twice, cancels a job. At the end all parts work again, every job
must end, and the SEG objects in Orthanc must be those that the database knows, each once.
"""

import argparse
import random
import signal
import sys
import time
from collections import Counter

import requests

import broker
from bench.hospital import LEASE_S, MODEL, Hospital
from bench.parts import Part, wait_until

STUDIES = 8
MAX_ABSENCE_S = 1.5 * LEASE_S
END_LIMIT_S = 900.0
ACTIVE = "SELECT id FROM jobs WHERE state IN ('queued', 'running')"


class Chaos:
    """The faults that may happen to a hospital, and how often each did."""

    def __init__(self, hospital: Hospital, seed: int) -> None:
        self.hospital = hospital
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.happened: Counter[str] = Counter()
        self.studies = [hospital.new_study() for _ in range(STUDIES)]
        self.celery = broker.create(hospital.settings)

    def round(self) -> None:
        """Send requests, then cause one fault."""
        for _ in range(self.random.randint(0, 2)):
            self.ask()
        time.sleep(self.random.uniform(0.0, 2.0))
        fault = self.random.choice(
            (self.kill_a_worker, self.freeze_a_worker, self.kill_the_api, self.stop_orthanc,
             self.freeze_orthanc, self.stop_postgresql, self.empty_redis, self.repeat_a_message, self.cancel)
        )  # fmt: skip
        self.happened[fault.__name__.replace("_", " ")] += 1
        fault()

    def ask(self) -> None:
        study = self.random.choice(self.studies)
        self._post(f"/segmentation/{study}", {"model": MODEL, "force": self.random.random() < 0.3})

    def kill_a_worker(self) -> None:
        self._away(self.random.choice(self.hospital.workers), signal.SIGKILL)

    def kill_the_api(self) -> None:
        self._away(self.hospital.api, signal.SIGKILL)

    def stop_orthanc(self) -> None:
        self._away(self.hospital.orthanc, self.random.choice((signal.SIGTERM, signal.SIGKILL)))

    def stop_postgresql(self) -> None:
        # SIGQUIT is PostgreSQL's immediate shutdown: it recovers as from a crash.
        self._away(self.hospital.database, self.random.choice((signal.SIGINT, signal.SIGQUIT)))

    def empty_redis(self) -> None:
        self._away(self.hospital.redis, signal.SIGKILL)

    def freeze_orthanc(self) -> None:
        self._freeze(self.hospital.orthanc)

    def freeze_a_worker(self) -> None:
        self._freeze(self.random.choice(self.hospital.workers))

    def repeat_a_message(self) -> None:
        for job_id in self._active():
            for _ in range(2):
                broker.announce(self.celery, job_id)

    def cancel(self) -> None:
        for job_id in self._active()[:1]:
            self._post(f"/jobs/{job_id}/cancel", None)

    def all_ended(self) -> bool:
        return not self._active()

    def _away(self, part: Part, how: signal.Signals) -> None:
        part.stop(how)
        time.sleep(self.random.uniform(0.1, MAX_ABSENCE_S))
        part.start()

    def _freeze(self, part: Part) -> None:
        assert part.process is not None
        part.process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.1, 2 * MAX_ABSENCE_S))
        part.process.send_signal(signal.SIGCONT)

    def _active(self) -> list[str]:
        job_ids = [str(row.id) for row in self.hospital.rows(ACTIVE)]
        self.random.shuffle(job_ids)
        return job_ids

    def _post(self, path: str, body: object) -> None:
        try:
            answer = requests.post(f"{self.hospital.api.url}{path}", json=body, timeout=30)
            self.happened[f"answer {answer.status_code}"] += 1
        except requests.RequestException:
            self.happened["no answer"] += 1


def run(rounds: int, seed: int) -> list[str]:
    """Run the rounds and print the outcome; return sentences about what was lost or duplicated."""
    # So many attempts that none runs out by chance: every job must then be done or cancelled.
    hospital = Hospital(workers=2, MAX_ATTEMPTS="1000")
    try:
        chaos = Chaos(hospital, seed)
        for number in range(rounds):
            chaos.round()
            if (number + 1) % 10 == 0:
                print(f"round {number + 1}: {len(chaos._active())} jobs active", flush=True)
        wait_until(chaos.all_ended, "the end of every job", END_LIMIT_S)
        states = hospital.rows("SELECT state, error_code, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2")
        results = hospital.rows("SELECT count(*) FROM segmentations")[0][0]
        stored = sum(len(hospital.segs(study)) for study in chaos.studies)
        faults = hospital.faults(chaos.studies)
    finally:
        hospital.close()
    print(f"{rounds} rounds, seed {seed}")
    print(", ".join(f"{name} {count}" for name, count in sorted(chaos.happened.items())))
    print("jobs: " + ", ".join(f"{state}{f' ({code})' if code else ''} {n}" for state, code, n in states))
    print(f"segmentations in the database {results}, SEG objects in Orthanc {stored}")
    print("\n".join(faults) or "nothing lost, nothing doubled")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the service at random and count what is left.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return int(bool(run(options.rounds, options.seed)))


if __name__ == "__main__":
    sys.exit(main())
