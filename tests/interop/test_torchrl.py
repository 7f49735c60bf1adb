"""Networks in TorchRL's policies, beside episodes run alone and beside TorchRL's own module."""

import functools
import itertools

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, TransformedEnv
from torchrl.modules import GRUModule, ProbabilisticActor, ValueOperator, set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from brc_pytorch import BRC, GRU, NBRC, MultiLayerBase
from brc_pytorch.interop.gymnasium import TMaze
from brc_pytorch.interop.torchrl import BRCModule, NBRCModule, RecurrentModule

MODULES = {BRC: BRCModule, NBRC: NBRCModule}
STATE = "recurrent_state"
KEYS = {"in_key": "x", "out_key": "y"}


def rollout(rows, steps, layers, hidden, *, rate=0.3, own=False, inputs=3, dtype=torch.float64):
    """A tensordict as a collector leaves it: states at first steps are zero, or their own."""
    begins = torch.rand(rows, steps, 1) < rate
    state = torch.randn(rows, steps, layers, hidden, dtype=dtype)
    if not own:
        state = state.masked_fill(begins.unsqueeze(-1), 0)
    entries = {"x": torch.randn(rows, steps, inputs, dtype=dtype), STATE: state, "is_init": begins}
    return TensorDict(entries, [rows, steps])


def run(module, data, *, sequence=True):
    with set_recurrent_mode(sequence):
        return module(data.clone())


def episodes(begins):
    """The rows, first steps and ends of the episodes of a batch."""
    rows, steps = begins.shape[:2]
    for row in range(rows):
        starts = {0, *begins[row].flatten().nonzero().flatten().tolist()}
        bounds = [*sorted(starts), steps]
        yield from ((row, *pair) for pair in itertools.pairwise(bounds))


def alone(network, data):
    """Output and states of each episode run by itself, from the state that is stored for it."""
    rows, steps = data.batch_size
    output = data["x"].new_zeros(rows, steps, network.hidden_size)
    states = torch.zeros_like(data[STATE])
    for row, start, end in episodes(data["is_init"]):
        before = data[STATE][row, start].unsqueeze(1)
        if data["is_init"][row, start] and not before.any():
            before = None
        found, last = network(data["x"][row : row + 1, start:end], before)
        output[row, start:end], states[row, end - 1] = found[0], last[:, 0]
    return output, states


@pytest.mark.parametrize("network_type", [BRC, NBRC, GRU])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["from zero", "from states of their own"])
def test_episodes_do_as_if_alone(network_type, layers, own):
    """In outputs, states and every gradient, the stored states' included."""
    network = network_type(3, 5, layers, batch_first=True, dtype=torch.float64)
    data = rollout(4, 9, layers, 5, own=own)
    data["x"].requires_grad_()
    data[STATE].requires_grad_()
    with set_recurrent_mode(True):
        found = RecurrentModule(network, **KEYS)(data.copy())
    results = found["y"], found["next", STATE]
    expected = alone(network, data)
    torch.testing.assert_close(results, expected, rtol=0, atol=1e-12)
    cotangents = [torch.randn_like(result) for result in results]
    leaves = [data["x"], data[STATE], *network.parameters()]
    gradients = torch.autograd.grad(results, leaves, cotangents, retain_graph=True)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, leaves, cotangents), rtol=0, atol=1e-11
    )


@settings(max_examples=30)
@given(
    rows=st.integers(1, 3),
    steps=st.integers(1, 6),
    layers=st.integers(1, 2),
    rate=st.sampled_from([0.0, 0.3, 1.0]),
    own=st.booleans(),
)
def test_any_rollout(rows, steps, layers, rate, own):
    module = BRCModule(3, 2, layers, dtype=torch.float64, **KEYS)
    data = rollout(rows, steps, layers, 2, rate=rate, own=own)
    with torch.no_grad():
        found, expected = run(module, data), alone(module.network, data)
    torch.testing.assert_close((found["y"], found["next", STATE]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sequence", [False, True], ids=["steps", "sequences"])
@pytest.mark.parametrize("own", [False, True], ids=["from zero", "from states of their own"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_gru_does_what_that_of_torchrl_does(sequence, own, layers):
    theirs = GRUModule(3, 5, layers, **KEYS)
    network = GRU(3, 5, layers, batch_first=True)
    network.load_state_dict(theirs.gru.state_dict())
    ours = RecurrentModule(network, **KEYS)
    assert (ours.in_keys, ours.out_keys) == (theirs.in_keys, theirs.out_keys)
    data = rollout(4, 9, layers, 5, own=own, dtype=torch.float32)
    found, expected = run(ours, data, sequence=sequence), run(theirs, data, sequence=sequence)
    torch.testing.assert_close(found.to_dict(), expected.to_dict(), rtol=0, atol=1e-6)
    primers = [module.make_tensordict_primer().primers for module in (ours, theirs)]
    assert primers[0] == primers[1]


@pytest.mark.parametrize("network_type", [BRC, NBRC])
@pytest.mark.parametrize("learned", [False, True], ids=["zero", "learned"])
def test_a_sequence_does_what_its_steps_do(network_type, learned):
    """Also where episodes start from a state that is learned."""
    module = MODULES[network_type](3, 5, 2, learn_initial_state=learned, **KEYS)
    if learned:
        nn.init.normal_(module.network.initial_state)
    data = rollout(4, 9, 2, 5, dtype=torch.float32)
    stepped = []
    state = data[STATE][:, 0]
    for step in data.unbind(1):
        found = run(module, step.set(STATE, state), sequence=False)
        assert found["next", STATE].shape == (4, 2, 5)
        # What an environment does with it.
        state = found["next", STATE]
        stepped.append(found["y"])
    states = torch.where(data["is_init"].unsqueeze(-1), 0, data[STATE])
    sequence = run(module, data.set(STATE, states))
    torch.testing.assert_close(sequence["y"], torch.stack(stepped, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(sequence["next", STATE][:, -1], state, rtol=0, atol=1e-6)


def test_the_learned_state_gets_a_gradient_from_steps_and_sequences():
    module = NBRCModule(3, 5, learn_initial_state=True, **KEYS)
    for sequence in (False, True):
        data = rollout(2, 6, 1, 5, rate=1.0, dtype=torch.float32)
        (gradient,) = torch.autograd.grad(
            run(module, data, sequence=sequence)["y"].sum(), module.network.initial_state
        )
        assert gradient.all()


@pytest.mark.parametrize("missing", [False, True])
def test_a_missing_state_is_the_initial_one(missing):
    module = NBRCModule(3, 5, 2, **KEYS)
    data = rollout(2, 6, 2, 5, dtype=torch.float32)
    data[STATE][:, 0] = 0
    found = run(module, data.exclude(STATE) if missing else data)
    torch.testing.assert_close(found["y"], run(module, data)["y"], rtol=0, atol=0)
    step = data[:, 0].exclude(STATE) if missing else data[:, 0]
    torch.testing.assert_close(
        run(module, step, sequence=False)["y"], found["y"][:, 0], rtol=0, atol=1e-6
    )


def test_nothing_leaks_from_one_episode_into_the_next():
    module = NBRCModule(3, 5, 2, **KEYS)
    data = rollout(2, 8, 2, 5, rate=0.0, dtype=torch.float32)
    data["is_init"][0, 4] = True
    data[STATE][0, 4] = 0
    clean = run(module, data)["y"]
    data["x"][0, :4] = torch.nan
    y = run(module, data)["y"]
    assert y[0, :4].isnan().all()
    torch.testing.assert_close(y[0, 4:], clean[0, 4:], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [[], [6], [2, 6], [3, 2, 6]], ids=str)
def test_any_batch_size(shape):
    module = BRCModule(3, 5, 2, **KEYS)
    flat = rollout(6, 6, 2, 5, dtype=torch.float32)
    for sequence in (False, True):
        if sequence and not shape:
            continue
        data = TensorDict(
            {
                key: value.flatten(0, 1)[: torch.Size(shape).numel()].reshape(
                    *shape, *value.shape[2:]
                )
                for key, value in flat.items()
            },
            shape,
        )
        found = run(module, data, sequence=sequence)
        assert found["y"].shape == (*shape, 5)
        assert found["next", STATE].shape == (*shape, 2, 5)
        one = data.reshape(-1, shape[-1]) if sequence else data.reshape(-1)
        expected = run(module, one, sequence=sequence)
        torch.testing.assert_close(found["y"].reshape(-1, 5), expected["y"].reshape(-1, 5))


def test_nested_keys_and_a_mark_of_another_name():
    in_keys = [("agent", "x"), ("agent", "memory"), ("agent", "first")]
    out_keys = [("agent", "y"), ("next", "agent", "memory")]
    module = NBRCModule(3, 5, in_keys=in_keys, out_keys=out_keys)
    data = rollout(2, 6, 1, 5, dtype=torch.float32)
    names = dict(zip(("x", STATE, "is_init"), in_keys, strict=True))
    nested = TensorDict({names[key]: value for key, value in data.items()}, [2, 6])
    plain = RecurrentModule(module.network, **KEYS)
    found, expected = run(module, nested), run(plain, data)
    assert found["agent", "y"].equal(expected["y"])
    assert found["next", "agent", "memory"].equal(expected["next", STATE])
    (carried,) = module.make_tensordict_primer().primers.keys(True, True)
    assert carried == ("agent", "memory")


def test_tensors_in_the_place_of_a_tensordict():
    module = BRCModule(3, 5, **KEYS)
    data = rollout(2, 6, 1, 5, dtype=torch.float32)
    expected = run(module, data)
    with set_recurrent_mode(True):
        output, state = module(x=data["x"], recurrent_state=data[STATE], is_init=data["is_init"])
    assert output.equal(expected["y"])
    assert state.equal(expected["next", STATE])


def test_the_mode_is_that_of_torchrl_or_its_own():
    module = BRCModule(3, 5, **KEYS)
    trained = RecurrentModule(module.network, default_recurrent_mode=True, **KEYS)
    assert (module.recurrent_mode, trained.recurrent_mode) == (False, True)
    for mode in (True, False):
        with set_recurrent_mode(mode):
            assert (module.recurrent_mode, trained.recurrent_mode) == (mode, mode)


@pytest.mark.parametrize("module_type", [BRCModule, NBRCModule])
def test_a_module_makes_its_network(module_type):
    module = module_type(3, 5, 2, bias=False, dtype=torch.float64, **KEYS)
    network = module.network
    assert MODULES[type(network)] is module_type
    assert (network.input_size, network.hidden_size, network.num_layers) == (3, 5, 2)
    assert (network.bias, network.batch_first) == (False, True)
    (spec,) = module.make_tensordict_primer().primers.values()
    assert (spec.shape, spec.dtype) == ((2, 5), torch.float64)


class Agent:
    """A small agent for the T-maze, made of TorchRL's parts, and its environment."""

    def __init__(self, module):
        logits = TensorDictModule(nn.Linear(5, 4), ["y"], ["logits"])
        self.policy = ProbabilisticActor(
            TensorDictSequential(module, logits),
            in_keys=["logits"],
            distribution_class=torch.distributions.OneHotCategorical,
            return_log_prob=True,
        )
        self.critic = TensorDictSequential(module, ValueOperator(nn.Linear(5, 1), ["y"]))
        mazes = SyncVectorEnv(
            [functools.partial(TMaze, 2, max_steps=7)] * 4, autoreset_mode=AutoresetMode.DISABLED
        )
        mazes.reset(seed=0)
        env = GymWrapper(mazes)
        self.env = TransformedEnv(env, get_env_transforms_from_module(self.policy))
        self.collector = Collector(
            self.env,
            self.policy,
            frames_per_batch=4 * 20,
            total_frames=-1,
            auto_register_policy_transforms=False,
        )


@pytest.mark.parametrize(("module_type", "layers"), [(BRCModule, 1), (NBRCModule, 2)])
def test_one_loop_of_collecting_and_learning(module_type, layers):
    """The learner sees what the agent saw, episode after episode and batch after batch."""
    module = module_type(4, 5, layers, in_key="observation", out_key="y")
    agent = Agent(module)
    estimate = GAE(gamma=0.98, lmbda=0.95, value_network=agent.critic, deactivate_vmap=True)
    loss = ClipPPOLoss(agent.policy, agent.critic)
    optimizer = torch.optim.Adam(loss.parameters())
    batches = iter(agent.collector)
    for _ in range(2):
        data = next(batches)
        assert data.batch_size == (4, 20)
        assert data["is_init"][:, 1:].any(1).all()  # episodes begin within all rows
        again = run(module, data.select(*module.in_keys))
        torch.testing.assert_close(again["y"], data["y"], rtol=0, atol=1e-5)
        ends = data["next", "done"].squeeze(-1)
        last = again["next", STATE][:, :-1][ends[:, :-1]]
        torch.testing.assert_close(last, data["next", STATE][:, :-1][ends[:, :-1]])
    # The values of the next steps are those of the steps after, within an episode.
    with torch.no_grad(), set_recurrent_mode(True):
        estimate(data)
    inside = ~ends[:, :-1]
    torch.testing.assert_close(
        data["next", "state_value"][:, :-1][inside],
        data["state_value"][:, 1:][inside],
        rtol=0,
        atol=1e-5,
    )
    before = [parameter.detach().clone() for parameter in module.parameters()]
    losses = loss(data)
    sum(losses[key] for key in ("loss_objective", "loss_critic", "loss_entropy")).backward()
    optimizer.step()
    for old, parameter in zip(before, module.parameters(), strict=True):
        assert not old.equal(parameter)
    agent.collector.shutdown()


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (
            nn.GRU(3, 5, batch_first=True),
            TypeError,
            "expected a network of brc_pytorch, .*, got a torch.nn.modules.rnn.GRU",
        ),
        (
            MultiLayerBase("LSTM", [nn.LSTMCell(3, 5)], 5, return_sequences=True),
            TypeError,
            "expected one state, got an LSTM's pair of them",
        ),
        (BRC(3, 5), ValueError, "expected batch_first=True, got batch_first=False"),
        (
            NBRC(3, 5, batch_first=True, bidirectional=True),
            ValueError,
            "expected one direction, as agents see no later steps, got two",
        ),
        (
            MultiLayerBase("RNN", [nn.RNNCell(3, 5)], 5),
            ValueError,
            "expected return_sequences=True, got return_sequences=False",
        ),
    ],
    ids=["torch's", "pairs", "time first", "two directions", "last states"],
)
def test_bad_networks(network, error, message):
    with pytest.raises(error, match=f"^network: .*{message}$"):
        RecurrentModule(network, **KEYS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"out_key": "y"}, "in_key: expected either it or in_keys, got neither"),
        ({**KEYS, "in_keys": ["x", "h"]}, "in_key: expected either it or in_keys, got both"),
        ({"in_key": "x"}, "out_key: expected either it or out_keys, got neither"),
        (
            {"in_keys": ["x"], "out_key": "y"},
            r"in_keys: expected a list of 2 or 3 keys, got \['x'\]",
        ),
        ({"in_keys": "xh", "out_key": "y"}, "in_keys: expected a list of 2 or 3 keys, got 'xh'"),
        (
            {"in_key": "x", "out_keys": ["y", "h", "i"]},
            r"out_keys: expected a list of 2 keys, got \['y', 'h', 'i'\]",
        ),
    ],
)
def test_bad_keys(keys, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        BRCModule(3, 5, **keys)


def test_a_primer_needs_keys_that_go_on():
    module = BRCModule(3, 5, in_keys=["x", "h"], out_keys=["y", ("next", "g")])
    message = r"^out_keys: expected the state's to be \('next', 'h'\), got \('next', 'g'\)$"
    with pytest.raises(ValueError, match=message):
        module.make_tensordict_primer()


@pytest.mark.parametrize(
    ("missing", "message"),
    [("x", "an entry 'x', got none"), ("is_init", "'is_init', got none; torchrl.envs.InitTracker")],
)
def test_missing_entries(missing, message):
    module = BRCModule(3, 5, **KEYS)
    data = rollout(2, 6, 1, 5, dtype=torch.float32).exclude(missing)
    for sequence in (False, True):
        with pytest.raises(KeyError, match=message):
            run(module, data, sequence=sequence)


def test_sequences_need_a_time():
    module = BRCModule(3, 5, **KEYS)
    step = rollout(2, 6, 1, 5, dtype=torch.float32)[0, 0]
    run(module, step, sequence=False)
    with pytest.raises(ValueError, match=r"^tensordict: expected a last dimension for time"):
        run(module, step)
