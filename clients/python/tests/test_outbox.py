"""The order rule, without any network: what goes out next after refusals, reconnects and deadlines."""

from __future__ import annotations

import random
import unittest
from typing import Dict, List, Optional, Tuple, Union

import support  # noqa: F401  (the import path)

from iris_client import keys
from iris_client.errors import DeadlineExceeded, IrisError, Refused
from iris_client.frames import Accepted
from iris_client.outbox import Message, Outbox


class OutboxTest(unittest.TestCase):
    def setUp(self) -> None:
        self.outbox = Outbox()
        self.outcomes: Dict[bytes, Union[Accepted, IrisError]] = {}

    def add(self, *names: str, deadline: Optional[float] = None) -> None:
        """Names are like "a1": recipient a, first message."""
        for name in names:
            def done(message: Message, outcome: Union[Accepted, IrisError]) -> None:
                self.assertNotIn(message.body, self.outcomes)
                self.outcomes[message.body] = outcome
            self.outbox.add(Message(keys.new_key(), name[0], name.encode(), 0, deadline, done))

    def take(self, now: float, most: int = 100) -> "Dict[str, int]":
        taken: Dict[str, int] = {}
        while len(taken) < most:
            found = self.outbox.take(now)
            if found is None:
                break
            taken[found[1].body.decode()] = found[0]
        return taken

    def accept(self, seq: int, now: float = 0.0) -> None:
        self.assertTrue(self.outbox.settle(seq, lambda message: Accepted(seq, 1, 0, seq), now))

    def test_refusal_holds_its_recipient_only_and_resends_in_order(self) -> None:
        self.add("a1", "b1", "a2", "a3")
        sent = self.take(0)
        self.assertEqual(list(sent), ["a1", "b1", "a2", "a3"])
        self.outbox.refused(sent["a2"], True, 0, 1.0)      # answers may be in any order
        self.outbox.refused(sent["a1"], False, 500, 1.0)
        self.accept(sent["b1"])
        self.add("a4", "b2")
        self.assertEqual(list(self.take(1.0)), ["b2"])      # a is held, b is not
        self.outbox.refused(sent["a3"], True, 0, 1.0)
        self.assertEqual(list(self.take(1.49)), [])         # not before retry_after_ms
        again = self.take(1.6)
        self.assertEqual(list(again), ["a1"])
        self.accept(again["a1"])
        self.assertEqual(list(self.take(1.6)), ["a2", "a3", "a4"])

    def test_final_refusal_blocks_nothing(self) -> None:
        self.add("a1", "a2")
        sent = self.take(0)
        self.outbox.settle(sent["a1"], lambda message: Refused(message.key, 20, ""), 0)
        self.add("a3")
        self.assertEqual(list(self.take(0)), ["a3"])
        self.assertIsInstance(self.outcomes[b"a1"], Refused)

    def test_reconnect_resends_in_first_order_before_newer(self) -> None:
        self.add("a1", "b1", "a2", "a3")
        sent = self.take(0, most=3)
        self.accept(sent["b1"])
        self.outbox.connection_ended(1)
        self.add("a4")
        again = self.take(1)
        self.assertEqual(list(again), ["a1", "a2", "a3", "a4"])
        self.assertGreater(min(again.values()), max(sent.values()))
        self.assertFalse(self.outbox.settle(sent["a1"], lambda message: Accepted(1, 1, 0, 1), 1))

    def test_a_held_recipient_stays_held_over_a_reconnect(self) -> None:
        self.add("a1", "a2")
        sent = self.take(0)
        self.outbox.refused(sent["a1"], False, 2000, 0)
        self.outbox.connection_ended(0)                     # a2 was never answered
        self.assertEqual(list(self.take(1.9)), [])
        again = self.take(3)
        self.outbox.connection_ended(3)                     # the probe was never answered
        self.assertEqual(list(again), ["a1"])
        self.assertEqual(list(self.take(4)), ["a1"])

    def test_an_expired_message_that_blocks_asks_for_a_new_connection(self) -> None:
        self.add("a1", deadline=5)
        self.add("a2")
        sent = self.take(0)
        self.outbox.refused(sent["a1"], False, 10_000, 0)
        self.outbox.refused(sent["a2"], True, 0, 0)
        for message in self.outbox.expire(6):
            message.settle(DeadlineExceeded(""))
        self.assertEqual(set(self.outcomes), {b"a1"})
        self.assertTrue(self.outbox.needs_fresh_connection)
        self.outbox.connection_ended(6)
        self.assertFalse(self.outbox.needs_fresh_connection)
        self.assertEqual(list(self.take(12)), ["a2"])

    def test_a_probe_that_is_always_behind_asks_for_a_new_connection(self) -> None:
        self.add("a1")
        now = 0.0
        for _ in range(3):
            self.assertFalse(self.outbox.needs_fresh_connection)
            self.outbox.refused(self.take(now)["a1"], True, 0, now)
            now += 10
        self.assertTrue(self.outbox.needs_fresh_connection)

    def test_a_server_that_keeps_the_rule_appends_in_order(self) -> None:
        """Random refusals, losses and reconnects against a model of the document's server."""
        for seed in range(30):
            rng = random.Random(seed)
            self.setUp()
            names = [f"{rng.choice('abc')}{n}" for n in range(60)]
            log: List[str] = []
            blocked: Dict[str, str] = {}
            wire: List[Tuple[int, str]] = []
            now = 0.0
            left = list(names)
            while len(self.outcomes) < len(names):
                now += 0.05
                self.assertLess(now, 10_000)
                for _ in range(rng.randrange(4)):
                    if left:
                        self.add(left.pop(0))
                wire += [(seq, name) for name, seq in self.take(now, 5).items()]
                if rng.random() < 0.02:                     # cut; some of what was sent was appended all the same
                    for _, name in wire[:rng.randrange(len(wire) + 1)]:
                        if name[0] not in blocked and name not in log:
                            log.append(name)
                    wire, blocked = [], {}
                    self.outbox.connection_ended(now)
                    continue
                answers = []
                for seq, name in wire:
                    if blocked.get(name[0], name) != name:
                        answers.append((seq, "behind"))
                    elif rng.random() < 0.15:
                        blocked[name[0]] = name
                        answers.append((seq, "refused"))
                    else:
                        blocked.pop(name[0], None)
                        if name not in log:
                            log.append(name)
                        answers.append((seq, "ok"))
                wire = []
                rng.shuffle(answers)
                for seq, answer in answers:
                    if answer == "ok":
                        self.accept(seq, now)
                    else:
                        self.outbox.refused(seq, answer == "behind", 0, now)
            for recipient in "abc":
                self.assertEqual([name for name in log if name[0] == recipient],
                                 [name for name in names if name[0] == recipient], f"seed {seed}")
            self.assertEqual(self.outbox.unsettled(), [])


if __name__ == "__main__":
    unittest.main()
