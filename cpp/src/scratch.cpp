#include "scratch.hpp"

#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace unitrans {
namespace {

constexpr std::size_t kKeptBytes = std::size_t{8} << 20;

class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { release(); }

    void* at_least(std::size_t bytes) {
        if (bytes > bytes_) {
            release();
            data_ = ::operator new(bytes, std::align_val_t{kScratchAlignment});
            bytes_ = bytes;
        }
#ifdef __SANITIZE_ADDRESS__
        ASAN_UNPOISON_MEMORY_REGION(data_, bytes_);  // the borders of the last user
#endif
        return data_;
    }

    void release() {
        if (data_ != nullptr) ::operator delete(data_, std::align_val_t{kScratchAlignment});
        data_ = nullptr;
        bytes_ = 0;
    }

    std::size_t bytes() const { return bytes_; }

  private:
    void* data_ = nullptr;
    std::size_t bytes_ = 0;
};

thread_local Buffer task_buffer, call_buffer;

void trim(Buffer& buffer) {
    if (buffer.bytes() > kKeptBytes) buffer.release();
}

}  // namespace

void* thread_scratch(std::size_t bytes) { return task_buffer.at_least(bytes); }
void* call_scratch(std::size_t bytes) { return call_buffer.at_least(bytes); }
void trim_thread_scratch() { trim(task_buffer); }
void trim_call_scratch() { trim(call_buffer); }

}  // namespace unitrans
