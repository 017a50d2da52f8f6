"""What clients and operators do, message by message.

A request's delay is chosen when it arrives: the model takes the latest moment at which it can have been sent, which
gives the longest belief. A renewal or release that was sent once may arrive at any time later, its reply then being
lost. Replies of acknowledged calls travel as long as they like; one that never arrives is a lost one.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.cluster import Cluster, Step, Written
from tests.model.scripts import Gate, acquire, force_break, release, renew, revoke
from tests.model.state import Client, Past, Reply, State


class Clients(Cluster):
    """Two clients, an operator and the sweeper, at every primary that answers."""

    def tick(self, state: State) -> State:
        """Let time pass, and forget what cannot matter any more, so that states are the same."""
        state = state._replace(now=state.now + 1)
        settled = state.now - self.timing.max_ttl
        primaries = [primary._replace(since=max(primary.since, settled)) for primary in state.primaries]
        clients = [self._without_late_reply(state, client) for client in state.clients]
        return state._replace(primaries=tuple(primaries), clients=tuple(clients))

    def _without_late_reply(self, state: State, client: Client) -> Client:
        reply = client.reply
        if reply is None or reply.kind == "grant" or not self.rules.deadline_from_sending:
            return client
        useless = reply.sent + reply.remaining <= max(state.now, client.deadline)
        discarded = self.rules.late_reply_discarded and reply.as_holder and not state.held(client)
        return client._replace(reply=None) if useless or discarded else client

    def calls(self, state: State) -> Iterator[Step]:
        """Yield the calls that may arrive next, and what clients do by themselves."""
        for who, client in enumerate(state.clients):
            if client.reply is not None:
                yield self._reply_arrives(state, who)
            if self.bounds.releases and client.fence and not client.releasing:
                yield self._sends_release(state, who)
        for index in range(len(state.primaries)):
            if not self.answers(state, index):
                continue
            yield from self._probe(state, index)
            yield from self._acquires(state, index)
            yield from self._renewals(state, index)
            yield from self._releases(state, index)
            yield from self._breaks(state, index)
        if self.bounds.other_partitions:
            yield from self._other_partition(state)

    def _probe(self, state: State, index: int) -> Iterator[Step]:
        after, gate = self.pass_gate(state, index)
        if after != state:
            left = max(0, after.primaries[index].dataset.meta.quarantine_until - gate.now)
            yield Step(f"{state.primaries[index].name}: the sweeper looks; left of the quarantine: {left}", after)

    def _other_partition(self, state: State) -> Iterator[Step]:
        """Yield a reply of another partition of the same node, by which the coordinator sets its expectation."""
        if self.rules.guard_in_every_script:
            return
        after = self._sighted(state, state.elected.skew)
        if after != state:
            yield Step(f"{state.elected.name}: another partition's reply shows the clock", after)

    # Acquire.

    def _acquires(self, state: State, index: int) -> Iterator[Step]:
        for who, client in enumerate(state.clients):
            asking = self._asking(state, who, client)
            if asking is not None:
                yield from self._acquire(state, index, who, asking)

    def _asking(self, state: State, who: int, client: Client) -> Client | None:
        """Return the client as it waits with a nonce; None: it does not ask."""
        if client.nonce:
            return client
        if state.held(client) or client.nonces == self.bounds.nonces[who] or (who and not state.clients[0].nonces):
            return None
        past = client.past
        if client.fence and not client.releasing:  # suspended: another process starts in its place
            past = (*past, Past(client.fence, client.claims, released=False))
        nonces = client.nonces + 1
        return Client(nonce=2 * nonces + who, nonces=nonces, past=past)

    def _acquire(self, state: State, index: int, who: int, client: Client) -> Iterator[Step]:
        gated, gate = self.pass_gate(state, index, grants=True)
        name = gated.primaries[index].name
        granted = acquire(self.rules, self.timing, gated.primaries[index].dataset, gate, client.nonce)
        if granted is None:
            return
        double = not granted.repeated and client.nonce in gated.primaries[index].dataset.spent
        asked = self._with_client(gated, who, client)
        what = "the same grant again" if granted.repeated else "a grant"
        reply = Reply("grant", granted.fence, state.now, granted.remaining, as_holder=False)
        for written in self.write(asked, index, granted.dataset):
            label = f"{name}: {what} to client {who + 1} (nonce {client.nonce}), fence {granted.fence}"
            if not written.acked:
                yield Step(f"{label}; WAIT fails{_had_by(written)}", written.state, "I4" if double else "")
                continue
            violated = "I4" if double else self._grant_violates(written.state, index, granted.fence, granted.repeated)
            after = written.state._replace(granted=tuple(sorted({*state.granted, granted.fence})))
            label += f", {granted.remaining} left, acknowledged{_had_by(written)}"
            yield Step(label, self._with_client(after, who, after.clients[who]._replace(reply=reply)), violated)

    def _grant_violates(self, state: State, index: int, fence: int, repeated: bool) -> str:
        if repeated:
            return ""
        if state.now - state.primaries[index].since < self.timing.max_ttl:
            return "I11"
        if state.granted and fence <= state.granted[-1]:
            return "I2"
        return ""

    # Renew.

    def _renewals(self, state: State, index: int) -> Iterator[Step]:
        for who in self.bounds.renews:
            client = state.clients[who]
            if client.fence and not client.releasing:
                if state.held(client):
                    yield from self._renewal(state, index, who, state.now, client.claims, as_holder=True)
                else:
                    if client.claims:  # it was HELD once: a request that it sent then may still come
                        sent = client.deadline - 1
                        yield from self._renewal(state, index, who, sent, client.claims, as_holder=True)
                    yield from self._renewal(state, index, who, state.now, 0, as_holder=False)
            for past in client.past:
                if past.claims:
                    yield from self._late_renewal(state, index, who, past)

    def _claim_counts(self, gate: Gate, claims: int) -> bool:
        return bool(claims >> gate.incarnation & 1) or not self.rules.claim_names_incarnation

    def _renewal(
        self, state: State, index: int, who: int, sent: int, claims: int, *, as_holder: bool
    ) -> Iterator[Step]:
        gated, gate = self.pass_gate(state, index)
        fence = state.clients[who].fence
        claims |= gated.clients[who].claims if state.held(state.clients[who]) else 0
        counts = as_holder and self._claim_counts(gate, claims)
        before = gated.primaries[index].dataset
        renewed = renew(self.rules, self.timing, before, gate, fence, as_holder=counts)
        if renewed is None:
            return
        how = "renews" if as_holder and sent == state.now else "renews as suspended"
        if as_holder and sent < state.now:
            how = f"renews by a request it sent at {sent}, while HELD,"
        violated = self._token_violates(gated, index, fence)
        reply = Reply("renewal", fence, sent, self.timing.ttl, as_holder)
        for written in self.write(gated, index, renewed):
            label = f"{gated.primaries[index].name}: client {who + 1} {how} fence {fence}"
            if not written.acked:
                yield Step(f"{label}; WAIT fails{_had_by(written)}", written.state, violated)
                continue
            replied = written.state.clients[who]._replace(reply=reply)
            after = self._with_client(written.state, who, replied)
            yield Step(f"{label}, acknowledged{_had_by(written)}", after, violated)

    def _late_renewal(self, state: State, index: int, who: int, past: Past) -> Iterator[Step]:
        gated, gate = self.pass_gate(state, index)
        counts = self._claim_counts(gate, past.claims)
        before = gated.primaries[index].dataset
        renewed = renew(self.rules, self.timing, before, gate, past.fence, as_holder=counts)
        if renewed is None:
            return
        violated = self._token_violates(gated, index, past.fence)
        label = f"{gated.primaries[index].name}: a late renewal of client {who + 1} for fence {past.fence} arrives"
        for written in self.write(gated, index, renewed):
            yield Step(label, written.state, violated)

    def _token_violates(self, state: State, index: int, fence: int) -> str:
        """Name I5 if a change under this fence, on the elected primary, comes after a newer grant."""
        if index < len(state.primaries) - 1 or not state.granted or fence >= state.granted[-1]:
            return ""
        return "" if self.excused(state, fence) else "I5"

    def excused(self, state: State, fence: int) -> bool:
        """Whether the promise does not hold for this fence: broken by force, and the break perhaps lost."""
        return fence in state.broken and state.losses > 0 and not self.bounds.judges_broken

    # Release, break.

    def _sends_release(self, state: State, who: int) -> Step:
        client = state.clients[who]
        past = (*client.past, Past(client.fence, client.claims, released=True))
        if self.rules.release_ends_belief:
            client = Client(nonces=client.nonces, past=past)
        else:
            client = client._replace(past=past, releasing=True)
        fence = state.clients[who].fence
        return Step(f"client {who + 1} sends a release of fence {fence}", self._with_client(state, who, client))

    def _releases(self, state: State, index: int) -> Iterator[Step]:
        for who, client in enumerate(state.clients):
            for past in client.past:
                if past.released:
                    yield from self._release(state, index, who, past.fence)

    def _release(self, state: State, index: int, who: int, fence: int) -> Iterator[Step]:
        gated, gate = self.pass_gate(state, index)
        before = gated.primaries[index].dataset
        released = release(self.rules, before, gate, fence)
        if released is None:
            return
        violated = self._token_violates(gated, index, fence)
        if fence != before.record.fence:
            violated = "I5"
        label = f"{gated.primaries[index].name}: the release of fence {fence} by client {who + 1} arrives"
        for written in self.write(gated, index, released):
            yield Step(label, written.state, violated)

    def _breaks(self, state: State, index: int) -> Iterator[Step]:
        if not state.budget.breaks:
            return
        gated, gate = self.pass_gate(state, index)
        dataset = gated.primaries[index].dataset
        gated = gated._replace(budget=state.budget._replace(breaks=state.budget.breaks - 1))
        fence, name = dataset.record.fence, gated.primaries[index].name
        broken = force_break(self.rules, dataset, gate)
        if broken is not None:
            marked = gated._replace(broken=tuple(sorted({*state.broken, fence})))
            for written in self.write(marked, index, broken):
                label = f"{name}: an operator breaks fence {fence} by force, fence {broken.record.fence}"
                yield Step(f"{label}{_had_by(written)}", written.state)
        revoked = revoke(dataset, gate) if self.bounds.revokes else None
        if revoked is not None:
            for written in self.write(gated, index, revoked):
                yield Step(f"{name}: an operator revokes fence {fence}", written.state)

    # Replies.

    def _reply_arrives(self, state: State, who: int) -> Step:
        client = state.clients[who]
        reply = client.reply
        assert reply is not None
        start = reply.sent if self.rules.deadline_from_sending else state.now
        deadline = start + reply.remaining
        waiting = client._replace(reply=None)
        what = f"client {who + 1} gets the {reply.kind} of fence {reply.fence}"
        if reply.kind == "grant":
            past = client.past
            waiting = Client(nonces=client.nonces, past=past, fence=reply.fence, deadline=deadline)
        elif client.fence != reply.fence or client.releasing:
            return Step(f"{what} and drops it", self._with_client(state, who, waiting))
        elif self.rules.late_reply_discarded and reply.as_holder and not state.held(client):
            return Step(f"{what} after its deadline and drops it", self._with_client(state, who, waiting))
        else:
            waiting = waiting._replace(deadline=max(client.deadline, deadline))
        if state.held(waiting):
            waiting = waiting._replace(claims=waiting.claims | state.opened)
        held = f"HELD until {waiting.deadline}" if state.held(waiting) else "suspended"
        return Step(f"{what}: {held}", self._with_client(state, who, waiting))

    @staticmethod
    def _with_client(state: State, who: int, client: Client) -> State:
        clients = list(state.clients)
        clients[who] = client
        return state._replace(clients=tuple(clients))


def _had_by(written: Written) -> str:
    return f" (replicas that have it: {written.by})" if written.by or written.state.replicas else ""
