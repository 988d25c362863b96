"""Every healthy run of the bench.

What each file holds, so that nothing that people do is missing:

    digits         MLP and CNN with BatchNorm; SGD with momentum, Adam, RMSprop; step
                   decay, one-cycle, constant; dropout, label noise, batch size 1
    optimizers     AdamW, Lion, LAMB, Adafactor, Muon, schedule-free; cosine, to zero
    schedules      warm-up from exactly 0, one-cycle, restarts, zero at the end
    accumulation   optax.MultiSteps and transforms.accumulate, also of batches of 1
    precision      bfloat16, float16 alone and with a static loss scale
    frozen         frozen, unfrozen later, adapters from zero, resumed runs
    language       attention; copying and induction, where the loss drops suddenly
    recurrent      GRU and plain recurrent nets; lengths that grow
    generative     VAEs, also annealed from zero; a flow; diffusion
    scales         losses of 1e-8, 1e8, from 300 down to -990, and of 1000
    interpolation  1e-13 and 1e-31 in float32, separable classes; then new data
    curricula      harder data and new classes after convergence, tasks in turn,
                   batches without labels
    sparse         rewards in 20 % of batches, a rare class, words by Zipf's law
    heavy_tails    Student-t with 1.5 degrees of freedom in targets and in inputs
    bandits        policy gradient of negative loss, a target network
    physics        PINN of a Poisson problem
    factorization  ratings, and a saddle of a deep linear net
    arc            cells of ARC tasks
    loops          flax's nnx and TrainState, schedule-free scored at its average
    gan, ppo, sac  a GAN with two optimizers, PPO with one, SAC with three
"""

from harm.run import OwnLoop, Run
from harm.runs import (
    accumulation,
    arc,
    bandits,
    curricula,
    digits,
    factorization,
    frozen,
    gan,
    generative,
    heavy_tails,
    interpolation,
    language,
    loops,
    optimizers,
    physics,
    ppo,
    precision,
    recurrent,
    sac,
    scales,
    schedules,
    sparse,
)

TOPICS = (
    digits,
    optimizers,
    schedules,
    accumulation,
    precision,
    frozen,
    language,
    recurrent,
    generative,
    scales,
    interpolation,
    curricula,
    sparse,
    heavy_tails,
    bandits,
    physics,
    factorization,
    arc,
    loops,
    gan,
    ppo,
    sac,
)

RUNS: tuple[Run | OwnLoop, ...] = tuple(run for topic in TOPICS for run in topic.RUNS)
