"""The scheduler as a state machine, beside a list of texts that knows nothing of places."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from galaxy_mpi.engine.request import CacheLimits, EndReason
from galaxy_mpi.engine.scheduler import Scheduler

EOS = 9

PROMPTS = st.lists(
    st.tuples(st.integers(1, 330), st.integers(0, 2)).map(
        # Few beginnings, so that some prompts share theirs.
        lambda drawn: [drawn[1]] * (drawn[0] // 2) + [3] * (drawn[0] - drawn[0] // 2)
    ),
    max_size=24,
)


class AnyRun(RuleBasedStateMachine):
    """Prefill whenever there is something, decode whenever somebody is there, any tokens."""

    @initialize(
        prompts=PROMPTS,
        n_columns=st.integers(1, 3),
        places_each=st.integers(1, 10),
        n_blocks=st.integers(1, 14),
        page_size=st.sampled_from([16, 32, 48, 64]),
        max_new_tokens=st.integers(1, 40),
        max_seq_len=st.integers(340, 400),
        prefix_caching=st.booleans(),
    )
    def begin(self, prompts, n_columns, places_each, n_blocks, page_size, **settings_of_run):
        max_seq_len = settings_of_run.pop("max_seq_len")
        self.limits = CacheLimits(page_size=page_size, n_blocks=n_blocks, max_seq_len=max_seq_len)
        self.most = settings_of_run["max_new_tokens"]
        self.scheduler = Scheduler(
            prompts,
            places_each * n_columns,
            n_columns,
            self.limits,
            eos_tokens=(EOS,),
            **settings_of_run,
        )
        self.texts = [[] for _ in prompts]
        self.refused = {n for n, p in enumerate(prompts) if -(-len(p) // page_size) > n_blocks}
        self.mosts = [self.most] * len(prompts)
        self.started, self.cancelled = [], set()

    @rule(data=st.data())
    def prefill(self, data):
        requests = self.scheduler.next_prefill()
        if not requests:
            # Somebody is there, on whom the others wait; or there is nobody left.
            assert self.scheduler.active or self.scheduler.is_done
            return
        self.started += [request.number for request in requests]
        for request in requests:
            assert request.n_cached < len(request.prompt)
            assert request.n_cached % 128 == 0
        self.advance(data, requests)

    @precondition(lambda self: self.scheduler.active)
    @rule(data=st.data())
    def decode(self, data):
        self.advance(data, self.scheduler.active)

    @rule(n_tokens=st.integers(1, 330), most=st.integers(1, 40))
    def submit(self, n_tokens, most):
        request = self.scheduler.submit([3] * n_tokens, most)
        assert request.number == len(self.texts)
        self.texts.append([])
        self.mosts.append(most)
        if -(-n_tokens // self.limits.page_size) > self.limits.n_blocks:
            self.refused.add(request.number)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.integers(0, len(self.texts) - 1))
        before = self.scheduler.requests[number].ended
        self.scheduler.cancel(number)
        if before is None:
            self.cancelled.add(number)

    def advance(self, data, requests):
        token = st.integers(0, EOS)
        sampled = {request.number: data.draw(token) for request in requests}
        self.scheduler.advance(sampled)
        for number, found in sampled.items():
            self.texts[number].append(found)

    @invariant()
    def everybody_has_what_was_sampled_and_ends_when_it_must(self):
        if not hasattr(self, "scheduler"):
            return
        for request, text in zip(self.scheduler.requests, self.texts, strict=True):
            assert request.generated == text
            n_positions = len(request.prompt) + len(text) - 1
            if request.number in self.refused:
                expected = EndReason.REFUSED
            elif request.number in self.cancelled:
                expected = EndReason.CANCELLED
            elif text and text[-1] == EOS:
                expected = EndReason.END_OF_TEXT
            elif len(text) >= self.mosts[request.number]:
                expected = EndReason.LENGTH
            elif text and n_positions >= self.limits.n_positions:
                expected = EndReason.CACHE_FULL
            else:
                expected = None
            assert request.ended is expected

    @invariant()
    def requests_start_in_their_order(self):
        if hasattr(self, "scheduler"):
            gone = self.refused | (self.cancelled - set(self.started))
            ready = [n for n in range(len(self.texts)) if n not in gone]
            assert self.started == ready[: len(self.started)]

    @invariant()
    def nobody_writes_where_another_is(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler, page = self.scheduler, self.limits.page_size
        places = [request.place for request in scheduler.active]
        assert len(set(places)) == len(places)
        for column, pool in enumerate(scheduler.pools):
            holders = {}
            for request in scheduler.active:
                if scheduler.column(request.place) != column:
                    continue
                assert request.position < len(request.blocks) * page
                assert len(set(request.blocks)) == len(request.blocks)
                for number, block in enumerate(request.blocks):
                    # Whoever shares a block has the same tokens up to its end, all of the prompt.
                    tokens = tuple(request.prompt[: (number + 1) * page])
                    whole = len(tokens) == (number + 1) * page
                    key = tokens if whole else (request.number, number)
                    assert holders.setdefault(block, key) == key
            assert len(holders) + pool.n_available == self.limits.n_blocks

    @invariant()
    def tables_say_the_same(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        active = {request.place: request for request in scheduler.active}
        for place, position in enumerate(scheduler.positions):
            request = active.get(place)
            assert position == (-1 if request is None else request.position)
            assert scheduler.tokens[place] == (request.generated[-1] if request else 0)

    def teardown(self):
        if hasattr(self, "scheduler"):
            while not self.scheduler.is_done:
                requests = self.scheduler.next_prefill() or self.scheduler.active
                assert requests
                self.scheduler.advance({request.number: EOS for request in requests})
            assert all(pool.n_available == pool.n_blocks for pool in self.scheduler.pools)


TestAnyRun = AnyRun.TestCase
TestAnyRun.settings = settings(deadline=None, max_examples=80, stateful_step_count=40)
