"""What clients and operators do, message by message.

A request's delay is chosen when it arrives: the model takes the latest moment at which it can have been sent, which
gives the longest belief. A renewal or release that was sent once may arrive at any time later, its reply then being
lost. Replies of acknowledged calls travel as long as they like; one that never arrives is a lost one.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.cluster import Cluster, Step, Written
from tests.model.scripts import Gate, abandon, acquire, confirmed, force_break, release, renew, revoke
from tests.model.state import Client, Past, Record, Reply, State, Token


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
        if reply.token.fence > client.fence == reply.named:  # tells a new fence, if nothing else
            return client
        useless = reply.sent + reply.remaining <= max(state.now, client.deadline)
        discarded = self.rules.late_reply_discarded and reply.as_holder and not state.held(client)
        return client._replace(reply=None) if useless or discarded else client

    def calls(self, state: State) -> Iterator[Step]:
        """Yield the calls that may arrive next, and what clients do by themselves."""
        for who, client in enumerate(state.clients):
            if client.reply is not None:
                yield self._reply_arrives(state, who)
                if self.bounds.calls and client.nonce:
                    yield self._gives_up(state, who)
            if self.bounds.releases and client.fence and not client.releasing:
                yield self._sends_release(state, who)
        for index in range(len(state.primaries)):
            if not self.answers(state, index):
                continue
            gated, gate = self.pass_gate(state, index)
            if gated != state:
                left = max(0, gated.primaries[index].dataset.meta.quarantine_until - gate.now)
                name = state.primaries[index].name
                yield Step(f"{name}: the sweeper looks; left of the quarantine: {left}", gated)
            yield from self._acquires(state, index)
            lost = not confirmed(gated.primaries[index].dataset.record, gate)
            judged = lost and self.rules.reinstatement_is_guarded
            yield from self._renewals(*self.pass_gate(state, index, grants=judged), index)
            yield from self._releases(gated, index, gate)
            yield from self._breaks(gated, index, gate)

    # Acquire.

    def _acquires(self, state: State, index: int) -> Iterator[Step]:
        gated, gate = self.pass_gate(state, index, grants=True)
        for who, client in enumerate(state.clients):
            asking = self._asking(state, who, client)
            if asking is not None:
                yield from self._acquire(gated, index, gate, who, asking)

    def _asking(self, state: State, who: int, client: Client) -> Client | None:
        """Return the client as it waits with a nonce; None: it does not ask."""
        if client.nonce:
            if not self.bounds.calls:
                return client
            if client.reply is not None or client.calls == self.bounds.calls:
                return None
            return client._replace(calls=client.calls + 1)
        if state.held(client) or client.nonces == self.bounds.nonces[who] or (who and not state.clients[0].nonces):
            return None
        past = client.past
        if client.fence and not client.releasing:  # suspended: another process starts in its place
            past = (*past, Past(client.token, client.claims, released=False))
        nonces, calls = client.nonces + 1, min(1, self.bounds.calls)
        return Client(nonce=2 * nonces + who, nonces=nonces, calls=calls, past=past, abandoned=client.abandoned)

    def _acquire(self, state: State, index: int, gate: Gate, who: int, client: Client) -> Iterator[Step]:
        """Yield what comes of an acquire that passed the gate."""
        name, dataset = state.primaries[index].name, state.primaries[index].dataset
        granted = acquire(self.rules, self.timing, dataset, gate, client.nonce, client.calls)
        if granted is None:
            return
        double = not granted.repeated and client.nonce in dataset.spent
        asked = self._with_client(state, who, client)
        what = "the same grant again" if granted.repeated else "a grant"
        token = Token(granted.fence, granted.dataset.record.attempt, client.nonce)
        reply = Reply("grant", token, state.now, granted.remaining)
        label = f"{name}: {what} to client {who + 1} (nonce {client.nonce}), fence {granted.fence}"
        writes = self.write(asked, index, granted.dataset)
        if granted.repeated and not self.rules.retry_is_a_write:
            writes = iter([Written(asked, acked=True, by=0)])
        for written in writes:
            if not written.acked:
                yield Step(f"{label}; WAIT fails{_had_by(written)}", written.state, "I4" if double else "")
                continue
            violated = "I4" if double else self._grant_violates(written.state, index, token, granted.repeated)
            after = self._granted(written.state, token)
            told = f"{label}, {granted.remaining} left, acknowledged{_had_by(written)}"
            yield Step(told, self._with_client(after, who, after.clients[who]._replace(reply=reply)), violated)

    def _grant_violates(self, state: State, index: int, token: Token, repeated: bool) -> str:
        if repeated and (token.fence, token.nonce) in state.granted:
            return ""
        if not repeated and state.now - state.primaries[index].since < self.timing.max_ttl:
            return "I11"
        return "I2" if token.fence <= state.newest[0] else ""

    @staticmethod
    def _granted(state: State, token: Token) -> State:
        """Remember an acknowledged grant."""
        return state._replace(granted=tuple(sorted({*state.granted, (token.fence, token.nonce)})))

    def _gives_up(self, state: State, who: int) -> Step:
        client = state.clients[who]
        client = client._replace(reply=None, abandoned=(*client.abandoned, (client.nonce, client.calls)))
        label = f"client {who + 1} gives up call {client.calls}; what it was granted will be taken back"
        return Step(label, self._with_client(state, who, client))

    # Renew.

    def _renewals(self, state: State, gate: Gate, index: int) -> Iterator[Step]:
        for who in self.bounds.renews:
            client = state.clients[who]
            if client.fence and not client.releasing:
                if state.held(client):
                    yield from self._renewal(state, index, gate, who, state.now, client.claims, as_holder=True)
                else:
                    if client.claims:  # it was HELD once: a request that it sent then may still come
                        sent = client.deadline - 1
                        yield from self._renewal(state, index, gate, who, sent, client.claims, as_holder=True)
                    yield from self._renewal(state, index, gate, who, state.now, 0, as_holder=False)
            for past in client.past:
                yield from self._late_renewal(state, index, gate, who, past)

    def _claim_counts(self, gate: Gate, claims: int) -> bool:
        return bool(claims >> gate.incarnation & 1) or not self.rules.claim_names_incarnation

    def _renewal(
        self, state: State, index: int, gate: Gate, who: int, sent: int, claims: int, *, as_holder: bool
    ) -> Iterator[Step]:
        token = state.clients[who].token
        how = "renews" if as_holder and sent == state.now else "renews as suspended"
        if as_holder and sent < state.now:
            how = f"renews by a request it sent at {sent}, while HELD,"
        label = f"{state.primaries[index].name}: client {who + 1} {how} fence {token.fence}"
        counts = as_holder and self._claim_counts(gate, claims)
        for step, answered in self._renewed(state, index, gate, token, label, as_holder=counts):
            if answered is None:
                yield step
                continue
            reply = Reply("renewal", answered, sent, self.timing.ttl, as_holder, named=token.fence)
            replied = step.state.clients[who]._replace(reply=reply)
            yield step._replace(state=self._with_client(step.state, who, replied))

    def _late_renewal(self, state: State, index: int, gate: Gate, who: int, past: Past) -> Iterator[Step]:
        label = (
            f"{state.primaries[index].name}: a late renewal of client {who + 1} for fence {past.token.fence} arrives"
        )
        for counts in {False, bool(past.claims) and self._claim_counts(gate, past.claims)}:
            for step, _ in self._renewed(state, index, gate, past.token, label, as_holder=counts):
                yield step

    def _renewed(
        self, state: State, index: int, gate: Gate, token: Token, label: str, *, as_holder: bool
    ) -> Iterator[tuple[Step, Token | None]]:
        """Yield what comes of a renewal, and the token that is answered; None: WAIT failed."""
        before = state.primaries[index].dataset.record
        renewed = renew(self.rules, self.timing, state.primaries[index].dataset, gate, token, as_holder=as_holder)
        if renewed is None:
            return
        answered = token._replace(fence=renewed.record.fence)
        new = answered.fence > max(before.fence, token.fence)
        if new:
            label = f"{label}: reinstated under fence {answered.fence}"
        violated = self._token_violates(state, index, token, before, answered.fence)
        for written in self.write(state, index, renewed):
            if not written.acked:
                yield Step(f"{label}; WAIT fails{_had_by(written)}", written.state, violated), None
                continue
            told = f"{label}, acknowledged{_had_by(written)}"
            if new:
                wrong = violated or self._grant_violates(written.state, index, answered, repeated=False)
                yield Step(told, self._granted(written.state, answered), wrong), answered
            else:
                yield Step(told, written.state, violated), answered

    def _token_violates(self, state: State, index: int, token: Token, before: Record, fence: int) -> str:
        """Name I5 if a token changes another's record, or one that is below a newer grant gets no fence above it.

        On the elected primary. ``fence``: the record's after the change.
        """
        others = token.fence <= before.fence and token.nonce != before.nonce
        newest, nonce = state.newest
        below = fence < newest and token.nonce != nonce and index == len(state.primaries) - 1
        return "I5" if (others or below) and not self.excused(state, token.nonce) else ""

    def excused(self, state: State, nonce: int) -> bool:
        """Whether the promise does not hold for this lease: broken by force, and the break perhaps lost."""
        return nonce in state.broken and state.losses > 0 and not self.bounds.judges_broken

    # Release, break.

    def _sends_release(self, state: State, who: int) -> Step:
        client = state.clients[who]
        past = (*client.past, Past(client.token, client.claims, released=True))
        if self.rules.release_ends_belief:
            client = Client(nonces=client.nonces, past=past, abandoned=client.abandoned)
        else:
            client = client._replace(past=past, releasing=True)
        fence = state.clients[who].fence
        return Step(f"client {who + 1} sends a release of fence {fence}", self._with_client(state, who, client))

    def _releases(self, state: State, index: int, gate: Gate) -> Iterator[Step]:
        for who, client in enumerate(state.clients):
            for past in client.past:
                if past.released:
                    yield from self._release(state, index, gate, who, past.token)
            for nonce, call in client.abandoned:
                yield from self._abandon(state, index, gate, nonce, call)

    def _release(self, state: State, index: int, gate: Gate, who: int, token: Token) -> Iterator[Step]:
        before = state.primaries[index].dataset
        released = release(self.rules, before, gate, token.fence)
        if released is None:
            return
        violated = self._token_violates(state, index, token, before.record, before.record.fence)
        label = f"{state.primaries[index].name}: the release of fence {token.fence} by client {who + 1} arrives"
        for written in self.write(state, index, released):
            yield Step(label, written.state, violated)

    def _abandon(self, state: State, index: int, gate: Gate, nonce: int, call: int) -> Iterator[Step]:
        taken_back = abandon(self.rules, state.primaries[index].dataset, gate, nonce, call)
        if taken_back is not None:
            label = f"{state.primaries[index].name}: what call {call} of nonce {nonce} was granted is taken back"
            for written in self.write(state, index, taken_back):
                yield Step(label, written.state)

    def _breaks(self, state: State, index: int, gate: Gate) -> Iterator[Step]:
        if not state.budget.breaks:
            return
        dataset, name = state.primaries[index].dataset, state.primaries[index].name
        state = state._replace(budget=state.budget._replace(breaks=state.budget.breaks - 1))
        fence = dataset.record.fence
        broken = force_break(self.rules, dataset, gate)
        if broken is not None:
            marked = state._replace(broken=tuple(sorted({*state.broken, dataset.record.nonce})))
            for written in self.write(marked, index, broken):
                label = f"{name}: an operator breaks fence {fence} by force, fence {broken.record.fence}"
                yield Step(f"{label}{_had_by(written)}", written.state)
        revoked = revoke(dataset, gate) if self.bounds.revokes else None
        if revoked is not None:
            for written in self.write(state, index, revoked):
                yield Step(f"{name}: an operator revokes fence {fence}", written.state)

    # Replies.

    def _reply_arrives(self, state: State, who: int) -> Step:
        client = state.clients[who]
        reply = client.reply
        assert reply is not None
        start = reply.sent if self.rules.deadline_from_sending else state.now
        deadline = start + reply.remaining
        waiting = client._replace(reply=None)
        what = f"client {who + 1} gets the {reply.kind} of fence {reply.token.fence}"
        if reply.kind == "grant":
            waiting = Client(
                nonces=client.nonces,
                past=client.past,
                abandoned=client.abandoned,
                token=reply.token,
                deadline=deadline,
            )
        elif client.fence != reply.named or client.releasing:
            return Step(f"{what} and drops it", self._with_client(state, who, waiting))
        elif self.rules.late_reply_discarded and reply.as_holder and not state.held(client):
            return Step(f"{what} after its deadline and drops it", self._with_client(state, who, waiting))
        else:
            waiting = waiting._replace(deadline=max(client.deadline, deadline))
            if reply.token != client.token:  # what it sent under the old fence may still be on its way
                past = (*client.past, Past(client.token, client.claims, released=False))
                waiting = waiting._replace(token=reply.token, claims=0, past=past)
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
