// The threads of a team as fibers of one thread of the host, for ThreadSanitizer: it is told that they run at the same time
// and that only barriers order what they do. Then two accesses of one place that no barrier separates, also of different
// teams of a launch, are a data race that it reports, whatever order the fibers really ran in.
#pragma once

#include <sanitizer/tsan_interface.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

extern "C" {  // of the runtime of ThreadSanitizer, declared by no header
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace unitrans::cuda {

// The machine's own bookkeeping is not what is checked.
struct Unwatched {
    Unwatched() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~Unwatched() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
    Unwatched(const Unwatched&) = delete;
};

class Fibers {
  public:
    enum class Call { kBarrier, kShuffle, kLoadMatrices, kMma };
    using Body = std::function<void(int rank, int64_t item, char* shared)>;

    // Two teams of each size run the items of all launches, as to make fibers is slow. Nothing orders one after the other:
    // of the items of a launch those of different teams are at the same time.
    static Fibers& team(int threads, int which) {
        static Fibers small[2] = {Fibers(32), Fibers(32)}, large[2] = {Fibers(128), Fibers(128)};
        return threads == 32 ? small[which] : large[which];
    }

    // Runs body for all ranks, with `shared` fresh bytes between them. All that came before a release of `launch` comes
    // before it, and it before what follows an acquire of `finished`.
    void run(int64_t item, const Body& body, size_t shared, bool backwards, void* launch,
             void* finished) {
        const Unwatched unwatched;
        memory_.assign(shared + kGuard + 16, '\xff');  // NaN
        job_ = {item, &body,
                memory_.data() + (16 - reinterpret_cast<uintptr_t>(memory_.data()) % 16) % 16,
                launch, finished};
        scheduler_ = __tsan_get_current_fiber();
        const int count = static_cast<int>(fibers_.size());
        for (Fiber& f : fibers_) f.done = false;
        for (int left = count; left > 0;) {
            bool moved = false;
            for (int i = 0; i < count; ++i) {
                Fiber& f = fibers_[backwards ? count - 1 - i : i];
                if (f.done || f.waiting) continue;
                running_ = &f;
                __tsan_switch_to_fiber(f.tsan, __tsan_switch_to_fiber_no_sync);
                swapcontext(&scheduler_context_, &f.context);
                moved = true;
                left -= f.done;
            }
            if (!moved) fail("a barrier that some threads of a team do not reach");
        }
        for (size_t b = 0; b < kGuard; ++b) {
            if (job_.shared[shared + b] != '\xff') fail("wrote behind its shared memory");
        }
    }

    // __syncthreads, and __syncwarp for the warp of the fiber that calls.
    void barrier(bool of_team) {
        Meeting& m = meeting(of_team);
        char* order = &m.order[m.phase % 2];  // late ones must not see what early ones do next
        __tsan_release(order);
        meet(m, of_team, Call::kBarrier, [] {});
        __tsan_acquire(order);
    }

    // An instruction of a warp: `whole` runs once, with what each of its 32 threads gave. It orders nothing.
    template <class F>
    void together(Call call, void* given, F&& whole) {
        Meeting& m = meeting(false);
        {
            const Unwatched unwatched;
            m.given[running_->rank % 32] = given;
        }
        meet(m, false, call, [&] { whole(m.given); });
    }

  private:
    static constexpr size_t kStack = 256 * 1024, kGuard = 256;

    // Where the threads of a team, or of a warp, meet.
    struct Meeting {
        int arrived = 0;
        unsigned phase = 0;
        Call call = Call::kBarrier;
        char order[2] = {};
        void* given[32] = {};
    };
    struct Fiber {
        Fibers* owner = nullptr;
        int rank = 0;
        bool done = true;
        Meeting* waiting = nullptr;
        void* tsan = nullptr;
        ucontext_t context;
    };
    struct Job {
        int64_t item = 0;
        const Body* body = nullptr;
        char* shared = nullptr;
        void *launch = nullptr, *finished = nullptr;
    };

    explicit Fibers(int count)
        : fibers_(count), meetings_(count / 32 + 1), stacks_(new char[count * kStack]) {
        for (int i = 0; i < count; ++i) prepare(fibers_[i], i);
    }

    void prepare(Fiber& f, int rank) {
        f.owner = this;
        f.rank = rank;
        f.tsan = __tsan_create_fiber(0);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = stacks_.get() + rank * kStack;
        f.context.uc_stack.ss_size = kStack;
        f.context.uc_link = nullptr;
        const auto address = reinterpret_cast<uintptr_t>(&f);
        makecontext(&f.context, reinterpret_cast<void (*)()>(&Fibers::enter), 2,
                    static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
    }

    static void enter(unsigned high, unsigned low) {
        Fiber& f = *reinterpret_cast<Fiber*>(uintptr_t(high) << 32 | low);
        for (;;) f.owner->work(f);
    }

    void work(Fiber& f) {
        const Job job = [&] {
            const Unwatched unwatched;
            return job_;
        }();
        __tsan_acquire(job.launch);
        __tsan_acquire(&job_);  // the items of this team come one after the other
        (*job.body)(f.rank, job.item, job.shared);
        __tsan_release(&job_);
        __tsan_release(job.finished);
        const Unwatched unwatched;
        f.done = true;
        leave(f);
    }

    void leave(Fiber& f) {
        __tsan_switch_to_fiber(scheduler_, __tsan_switch_to_fiber_no_sync);
        swapcontext(&f.context, &scheduler_context_);
    }

    [[noreturn]] static void fail(const char* what) {
        std::printf("FAILED: %s\n", what);
        std::fflush(stdout);
        std::_Exit(1);
    }

    Meeting& meeting(bool of_team) {
        const Unwatched unwatched;
        return of_team || meetings_.size() == 2 ? meetings_.back() : meetings_[running_->rank / 32];
    }

    template <class F>
    void meet(Meeting& m, bool of_team, Call call, F&& last) {
        const Unwatched unwatched;
        const int size = of_team ? static_cast<int>(fibers_.size()) : 32;
        if (m.arrived > 0 && m.call != call) fail("threads of a warp at different instructions");
        m.call = call;
        if (++m.arrived < size) {
            Fiber& self = *running_;
            self.waiting = &m;
            leave(self);
            return;
        }
        last();
        m.arrived = 0;
        ++m.phase;
        for (Fiber& f : fibers_) {
            if (f.waiting == &m) f.waiting = nullptr;
        }
    }

    std::vector<Fiber> fibers_;
    std::vector<Meeting> meetings_;  // of the warps, then of the team
    std::unique_ptr<char[]> stacks_;
    std::vector<char> memory_;
    Job job_;
    void* scheduler_ = nullptr;
    ucontext_t scheduler_context_;
    Fiber* running_ = nullptr;
};

}  // namespace unitrans::cuda
