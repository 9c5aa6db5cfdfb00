/* The engine behind kernels/simt.cuh on the CPU: threads of a block as fibers. Blocks run one at a time on each
 * operating system thread, in any order; the threads of a block from first to last, or with SIMT_ORDER=reverse from
 * last to first. Shared memory is thread-local to the operating system thread; it keeps what the block before left, so
 * tests run both orders. x86-64 only.
 */
#include "../../kernels/simt.cuh"

#include "../fakecuda/fake.h"

#include <atomic>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#error "tests/simt switches fibers with x86-64 instructions; build with CUDA=0 on other machines"
#endif

namespace simt {
__thread block_state *now;

struct fiber {
    void *sp = nullptr;
    std::unique_ptr<char[]> stack;
    bool done = true;
    int waits = 0; /* 0: runnable */
};

namespace {
constexpr size_t stack_bytes = 64 * 1024;

struct scheduler {
    std::vector<fiber> fibers;
    fiber *current = nullptr;
    void *main_sp = nullptr;
    const std::function<void()> *body = nullptr;
};
__thread scheduler *sched;
std::atomic<int> launch_error{0};

extern "C" void dass_simt_switch(void **save, void *load);
/* Callee-saved registers go on the old stack, come from the new one. */
__asm__(".text\n"
        ".local dass_simt_switch\n"
        ".type dass_simt_switch,@function\n"
        "dass_simt_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size dass_simt_switch, .-dass_simt_switch\n");

void to_scheduler()
{
    dass_simt_switch(&sched->current->sp, sched->main_sp);
}

void entry()
{
    for (;;) {
        (*sched->body)();
        sched->current->done = true;
        to_scheduler();
    }
}

void prepare(fiber &f)
{
    f.done = false;
    f.waits = 0;
    if (f.stack)
        return; /* it stands in entry(), behind to_scheduler() */
    f.stack.reset(new char[stack_bytes]);
    const uintptr_t top = (reinterpret_cast<uintptr_t>(f.stack.get()) + stack_bytes) & ~uintptr_t{63};
    void **p = reinterpret_cast<void **>(top);
    *--p = nullptr; /* keeps the stack aligned as after a call */
    *--p = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--p = nullptr;
    f.sp = p;
}

[[noreturn]] void stuck(const char *name, unsigned waiting, unsigned alive)
{
    std::fprintf(stderr,
                 "simt: %s: block (%u,%u,%u): %u of %u living threads wait at a barrier that the others never reach\n",
                 name, now->block.x, now->block.y, now->block.z, waiting, alive);
    std::abort();
}

/* Let go the warps whose living threads all wait as warps; how many threads that were. */
unsigned release_warps(unsigned n)
{
    unsigned released = 0;
    for (unsigned w = 0; w < n; w += 32) {
        const unsigned end = w + 32 < n ? w + 32 : n;
        unsigned alive = 0;
        unsigned waiting = 0;
        for (unsigned i = w; i < end; i++) {
            alive += !sched->fibers[i].done;
            waiting += !sched->fibers[i].done && sched->fibers[i].waits == wait_warp;
        }
        if (waiting == 0 || waiting != alive)
            continue;
        for (unsigned i = w; i < end; i++)
            sched->fibers[i].waits = 0;
        released += waiting;
    }
    return released;
}

void run_block(const char *name, unsigned n, bool reverse)
{
    if (sched->fibers.size() < n)
        sched->fibers.resize(n);
    for (unsigned i = 0; i < n; i++)
        prepare(sched->fibers[i]);
    unsigned alive = n;
    while (alive > 0) {
        unsigned progress = 0;
        for (unsigned k = 0; k < n; k++) {
            const unsigned i = reverse ? n - 1 - k : k;
            fiber &f = sched->fibers[i];
            if (f.done || f.waits)
                continue;
            now->linear = i;
            now->thread = dim3(i % now->block_dim.x, i / now->block_dim.x % now->block_dim.y,
                                i / (now->block_dim.x * now->block_dim.y));
            sched->current = &f;
            dass_simt_switch(&sched->main_sp, f.sp);
            progress++;
            alive -= f.done;
        }
        progress += release_warps(n);
        unsigned waiting = 0;
        for (unsigned i = 0; i < n; i++)
            waiting += !sched->fibers[i].done && sched->fibers[i].waits == wait_block;
        if (waiting > 0 && waiting == alive) {
            if (alive != n) /* a real block may hang here, or go on: both are faults of the kernel */
                stuck(name, waiting, n);
            for (unsigned i = 0; i < n; i++)
                sched->fibers[i].waits = 0;
            progress++;
        }
        if (alive > 0 && progress == 0)
            stuck(name, waiting, alive);
    }
}
} // namespace

void wait(wait_kind kind)
{
    /* the state of the block is shared by its fibers: what belongs to this one is put back when it goes on */
    const dim3 thread = now->thread;
    const unsigned linear = now->linear;
    sched->current->waits = kind;
    to_scheduler();
    now->thread = thread;
    now->linear = linear;
}

static void run_grid(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body)
{
    const unsigned n = block.x * block.y * block.z;
    const char *order = std::getenv("SIMT_ORDER");
    const bool reverse = order && *order == 'r';
    const long long count = (long long)grid.x * grid.y * grid.z;
#pragma omp parallel for schedule(dynamic, 4) if (count > 8)
    for (long long k = 0; k < count; k++) {
        const size_t i = (size_t)(reverse ? count - 1 - k : k);
        thread_local block_state state_here;
        thread_local scheduler sched_here;
        now = &state_here;
        sched = &sched_here;
        sched->body = &body;
        now->block_dim = block;
        now->grid_dim = grid;
        now->n_threads = n;
        now->block =
            dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / ((size_t)grid.x * grid.y)));
        /* of its own, so that the address sanitizer sees what is beyond; NaN, as little initialised as a device's */
        std::vector<unsigned char> dynamic(shared, 0xff);
        now->shared = dynamic.data();
        run_block(name, n, reverse);
        now->shared = nullptr;
    }
}

void launch(const char *name, dim3 grid, dim3 block, size_t shared, void *stream, std::function<void()> body)
{
    const size_t n = (size_t)block.x * block.y * block.z;
    if (n == 0 || n > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 2147483647u ||
        grid.y > 65535 || grid.z > 65535) {
        std::fprintf(stderr, "simt: %s: a grid of (%u,%u,%u) blocks of (%u,%u,%u) threads is not legal\n", name, grid.x,
                     grid.y, grid.z, block.x, block.y, block.z);
        launch_error = 9; /* cudaErrorInvalidConfiguration */
        return;
    }
    if (shared > FAKE_SHARED_BYTES) {
        std::fprintf(stderr, "simt: %s: %zu bytes of shared memory, %d are there\n", name, shared, FAKE_SHARED_BYTES);
        launch_error = 1; /* cudaErrorInvalidValue */
        return;
    }
    fake_enqueue(stream, name, [=, body = std::move(body)] { run_grid(name, grid, block, shared, body); });
}

int last_launch()
{
    return launch_error.exchange(0);
}
} // namespace simt
