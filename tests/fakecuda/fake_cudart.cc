/* A double of the CUDA runtime: one device whose memory is host memory. Device memory starts as NaN. Work enqueued on a
 * stream does not run before somebody waits for the stream, as late as a real device might, so a missing wait is a
 * wrong number; a captured stream records, and a launched graph enqueues what was recorded. Faults (memory of the wrong
 * kind or size, use after free, leaks, capture misused, errors left for the next call) are said on stderr and fail the
 * process.
 *
 * $FAKE_CUDA_CAPTURE makes recordings fail. "begin": none begins. "instantiate": none becomes a graph that runs.
 * "wait:N": a library waits for the stream while the Nth thing (from 1) is recorded, which ends any recording.
 * "malloc:N": it asks for memory then, which ends all but those of the relaxed mode.
 *
 * Only what src/cuda uses is here; an unknown call does not link.
 */
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <chrono>

#include "fake.h"

#ifdef __SANITIZE_ADDRESS__
/* cuDNN loads NVRTC for the engines that it compiles and unloads it with the last of their plans. What NVRTC's C++
 * library keeps until the process ends would then belong to no module that lsan.supp could name: so it stays. */
static void *const nvrtc_that_stays =
    dlopen(("libnvrtc.so." + std::to_string(CUDART_VERSION / 1000)).c_str(), RTLD_LAZY | RTLD_NODELETE);
#endif

namespace {
struct task {
    std::string what;
    std::function<void()> work;
};
struct stream_state {
    std::deque<task> queue;
    std::vector<task> *capture = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    bool invalid = false; /* the capture; it records nothing more */
};
struct event_state {
    bool recorded = false;
    std::chrono::steady_clock::time_point at;
};
struct graph_state {
    std::vector<task> tasks;
};

typedef std::map<uintptr_t, size_t> blocks; /* begin -> bytes */
blocks device_memory;
blocks pinned_memory; /* of the host, page-locked */
std::map<void *, std::unique_ptr<stream_state>> streams;
std::map<void *, std::shared_ptr<event_state>> events;
unsigned long n_launches, n_faults;
cudaError_t last_error = cudaSuccess;
size_t device_used;
fake_traffic traffic;

/* $FAKE_CUDA_BYTES makes the device smaller: what does not fit has to be noticed. */
size_t device_bytes()
{
    const char *env = getenv("FAKE_CUDA_BYTES");
    return env != nullptr ? std::strtoull(env, nullptr, 10) : size_t{1} << 32;
}

size_t device_free()
{
    const size_t all = device_bytes();
    return all > device_used ? all - device_used : 0;
}

bool inside(const blocks &m, const void *p, size_t bytes)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    auto it = m.upper_bound(at);
    if (it == m.begin())
        return false;
    --it;
    return at >= it->first && at + bytes <= it->first + it->second;
}

cudaError_t fail(cudaError_t e)
{
    last_error = e;
    return e;
}

stream_state *find(cudaStream_t s)
{
    const auto it = streams.find(s);
    if (it == streams.end()) {
        fake_fault("a stream that does not exist, or was destroyed");
        return nullptr;
    }
    return it->second.get();
}

bool capture_fault(const char *what)
{
    const char *env = getenv("FAKE_CUDA_CAPTURE");
    return env != nullptr && std::strcmp(env, what) == 0;
}

/* Is the thing that would be number n of a capture the one at which "what:N" strikes? */
bool strikes(const char *what, size_t n)
{
    const char *env = getenv("FAKE_CUDA_CAPTURE");
    const size_t len = std::strlen(what);
    return env != nullptr && std::strncmp(env, what, len) == 0 && env[len] == ':' &&
           std::strtoull(env + len + 1, nullptr, 10) == n;
}

void record(stream_state *s, task t)
{
    const size_t n = s->capture->size() + 1;
    s->invalid = s->invalid || strikes("wait", n) || (strikes("malloc", n) && s->mode != cudaStreamCaptureModeRelaxed);
    if (!s->invalid)
        s->capture->push_back(std::move(t));
}

void drain(stream_state *s)
{
    while (!s->queue.empty()) {
        task t = std::move(s->queue.front());
        s->queue.pop_front();
        t.work();
    }
}

struct at_exit {
    ~at_exit()
    {
        for (const auto &m : device_memory)
            fake_fault("%zu bytes of device memory were never freed", m.second);
        for (const auto &m : pinned_memory)
            fake_fault("%zu bytes of page-locked memory were never freed", m.second);
        if (!streams.empty())
            fake_fault("%zu streams were never destroyed", streams.size());
        if (!events.empty())
            fake_fault("%zu events were never destroyed", events.size());
        if (n_faults > 0) {
            std::fprintf(stderr, "fakecuda: %lu faults\n", n_faults);
            std::fflush(nullptr);
            std::_Exit(70);
        }
    }
} check_at_exit;

/* cuDNN plans for the card that this file describes; there is none to ask. */
struct at_start {
    at_start()
    {
        setenv("DASS_CUDNN_DEVICE", FAKE_DEVICE_JSON, 0);
    }
} set_at_start;
} // namespace

void fake_fault(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    std::fputs("fakecuda: ", stderr);
    std::vfprintf(stderr, fmt, ap);
    std::fputc('\n', stderr);
    va_end(ap);
    n_faults++;
}

bool fake_cuda_inside(const void *p, size_t bytes)
{
    return inside(device_memory, p, bytes);
}

void fake_cuda_traffic(fake_traffic *out)
{
    *out = traffic;
}

void fake_enqueue(void *stream, const char *what, std::function<void()> work)
{
    stream_state *s = find(static_cast<cudaStream_t>(stream));
    if (s == nullptr)
        return;
    n_launches++;
    if (last_error != cudaSuccess) {
        fake_fault("%s of an earlier call would be reported by '%s'", cudaGetErrorName(last_error), what);
        last_error = cudaSuccess;
    }
    if (s->capture != nullptr)
        record(s, {what, std::move(work)});
    else
        s->queue.push_back({what, std::move(work)});
}

void fake_enqueue_c(void *stream, const char *what, void (*fn)(void *), const void *data, size_t bytes)
{
    const unsigned char *from = static_cast<const unsigned char *>(data);
    auto copy = std::make_shared<std::vector<unsigned char>>(from, from + bytes);
    fake_enqueue(stream, what, [fn, copy] { fn(copy->data()); });
}

/* ---- the runtime ------------------------------------------------------------------------------------------------- */

extern "C" {

cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess                          ? "no error"
           : e == cudaErrorMemoryAllocation          ? "out of memory"
           : e == cudaErrorStreamCaptureInvalidated  ? "operation failed due to a previous error during capture"
           : e == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing"
                                                     : "fake error";
}
const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess                          ? "cudaSuccess"
           : e == cudaErrorMemoryAllocation          ? "cudaErrorMemoryAllocation"
           : e == cudaErrorStreamCaptureInvalidated  ? "cudaErrorStreamCaptureInvalidated"
           : e == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported"
                                                     : "cudaErrorFake";
}
cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int i)
{
    return i == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int *v)
{
    *v = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int i)
{
    if (i != 0)
        return fail(cudaErrorInvalidDevice);
    std::memset(p, 0, sizeof *p);
    std::snprintf(p->name, sizeof p->name, "simulated device");
    p->major = 9;
    p->minor = 0;
    p->multiProcessorCount = 4; /* small, so that grids are cut and loops go round */
    p->totalGlobalMem = device_bytes();
    p->sharedMemPerBlockOptin = FAKE_SHARED_BYTES;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = device_bytes();
    *free_bytes = device_free();
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n)
{
    *p = nullptr;
    if (n == 0)
        return cudaSuccess;
    if (n > device_free())
        return fail(cudaErrorMemoryAllocation);
    void *q = nullptr;
    if (posix_memalign(&q, 256, n) != 0)
        return fail(cudaErrorMemoryAllocation);
    std::memset(q, 0xff, n);
    device_memory[reinterpret_cast<uintptr_t>(q)] = n;
    device_used += n;
    *p = q;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    if (p == nullptr)
        return cudaSuccess;
    const auto it = device_memory.find(reinterpret_cast<uintptr_t>(p));
    if (it == device_memory.end()) {
        fake_fault("cudaFree of what cudaMalloc did not give, or gave and took back");
        return fail(cudaErrorInvalidValue);
    }
    for (auto &s : streams) { /* memory that enqueued work may still use */
        if (!s.second->queue.empty()) {
            fake_fault("cudaFree while work is enqueued: first '%s'", s.second->queue.front().what.c_str());
            drain(s.second.get());
        }
    }
    device_used -= it->second;
    device_memory.erase(it);
    std::free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n)
{
    void *q = nullptr;
    *p = nullptr;
    if (posix_memalign(&q, 256, n) != 0)
        return fail(cudaErrorMemoryAllocation);
    pinned_memory[reinterpret_cast<uintptr_t>(q)] = n;
    *p = q;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p)
{
    if (p == nullptr)
        return cudaSuccess;
    if (pinned_memory.erase(reinterpret_cast<uintptr_t>(p)) == 0) {
        fake_fault("cudaFreeHost of what cudaMallocHost did not give, or gave and took back");
        return fail(cudaErrorInvalidValue);
    }
    for (auto &s : streams)
        if (!s.second->queue.empty())
            fake_fault("cudaFreeHost while work is enqueued: first '%s'", s.second->queue.front().what.c_str());
    std::free(p);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    const bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to != fake_cuda_inside(dst, n) || from != fake_cuda_inside(src, n)) {
        fake_fault("copy of %zu bytes: destination or source is memory of the other kind, or too small", n);
        return fail(cudaErrorInvalidValue);
    }
    traffic.copies += to != from;
    traffic.bytes_down += kind == cudaMemcpyHostToDevice ? n : 0;
    traffic.bytes_up += kind == cudaMemcpyDeviceToHost ? n : 0;
    /* The source of a copy down is taken before the call returns, but in page-locked memory when its turn comes. A copy
     * up into memory that is not page-locked makes the call wait. */
    const bool waits = kind == cudaMemcpyDeviceToHost && !inside(pinned_memory, dst, n);
    traffic.waits += waits;
    if (kind == cudaMemcpyHostToDevice && !inside(pinned_memory, src, n)) {
        const unsigned char *bytes = static_cast<const unsigned char *>(src);
        auto copy = std::make_shared<std::vector<unsigned char>>(bytes, bytes + n);
        fake_enqueue(stream, "copy", [=] { std::memcpy(dst, copy->data(), n); });
    } else {
        fake_enqueue(stream, "copy", [=] { std::memcpy(dst, src, n); });
    }
    stream_state *s = waits ? find(stream) : nullptr;
    if (s != nullptr && s->capture == nullptr)
        drain(s);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream)
{
    if (!fake_cuda_inside(p, n)) {
        fake_fault("memset of %zu bytes outside device memory", n);
        return fail(cudaErrorInvalidValue);
    }
    fake_enqueue(stream, "memset", [=] { std::memset(p, value, n); });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    std::unique_ptr<stream_state> s(new stream_state);
    *out = reinterpret_cast<cudaStream_t>(s.get());
    streams[*out] = std::move(s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    stream_state *s = find(stream);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    drain(s);
    streams.erase(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    stream_state *s = find(stream);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    if (s->capture != nullptr) {
        fake_fault("waiting for a stream that is being captured");
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    traffic.waits++;
    drain(s);
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    stream_state *s = find(stream);
    if (s == nullptr || s->capture != nullptr)
        return fail(cudaErrorIllegalState);
    if (capture_fault("begin"))
        return fail(cudaErrorStreamCaptureUnsupported);
    s->capture = new std::vector<task>;
    s->mode = mode;
    s->invalid = false;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out)
{
    stream_state *s = find(stream);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    *out = s->capture == nullptr ? cudaStreamCaptureStatusNone
           : s->invalid          ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    stream_state *s = find(stream);
    *out = nullptr;
    if (s == nullptr || s->capture == nullptr)
        return fail(cudaErrorIllegalState);
    std::unique_ptr<std::vector<task>> tasks(s->capture);
    s->capture = nullptr;
    if (s->invalid)
        return fail(cudaErrorStreamCaptureInvalidated);
    *out = reinterpret_cast<cudaGraph_t>(new graph_state{std::move(*tasks)});
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
    if (nodes != nullptr)
        return fail(cudaErrorNotSupported);
    *n = reinterpret_cast<graph_state *>(graph)->tasks.size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    if (graph == nullptr || capture_fault("instantiate"))
        return fail(cudaErrorInvalidValue);
    *out = reinterpret_cast<cudaGraphExec_t>(new graph_state(*reinterpret_cast<graph_state *>(graph)));
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    for (const task &t : reinterpret_cast<graph_state *>(graph)->tasks)
        fake_enqueue(stream, t.what.c_str(), t.work);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete reinterpret_cast<graph_state *>(graph);
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete reinterpret_cast<graph_state *>(graph);
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *data)
{
    fake_enqueue(stream, "host function", [=] { fn(data); });
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    std::shared_ptr<event_state> e(new event_state);
    *out = reinterpret_cast<cudaEvent_t>(e.get());
    events[*out] = std::move(e);
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (events.erase(event) == 0) {
        fake_fault("an event that does not exist, or was destroyed");
        return fail(cudaErrorInvalidResourceHandle);
    }
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const auto it = events.find(event);
    if (it == events.end()) {
        fake_fault("an event that does not exist, or was destroyed");
        return fail(cudaErrorInvalidResourceHandle);
    }
    std::shared_ptr<event_state> e = it->second;
    e->recorded = false;
    fake_enqueue(stream, "event", [e] {
        e->recorded = true;
        e->at = std::chrono::steady_clock::now();
    });
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    const auto a = events.find(begin);
    const auto b = events.find(end);
    if (a == events.end() || b == events.end() || !a->second->recorded || !b->second->recorded) {
        fake_fault("the time between events that are not there, or not yet reached");
        return fail(cudaErrorInvalidResourceHandle);
    }
    *ms = std::chrono::duration<float, std::milli>(b->second->at - a->second->at).count();
    return cudaSuccess;
}

} // extern "C"
