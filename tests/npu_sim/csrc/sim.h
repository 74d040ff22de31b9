// A host-memory device that stands in for an NPU in tests: it counts what a real one would have to do.
// Nothing here imitates Ascend arithmetic or Ascend speed.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/Generator.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Storage.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

namespace sim {

// ---- counts.cpp
struct Counts {
  std::mutex mutex;
  std::unordered_map<std::string, int64_t> launches;    // operator -> calls of its kernel
  std::unordered_map<std::string, int64_t> signatures;  // operator(dtypes, shapes) -> calls
  std::map<std::string, int64_t> events;                // h2d:blocking, d2h:blocking, sync:<why>, collective:<what>, ...
  std::set<std::string> not_native;                     // operators outside the declared list
};
Counts& counts();
void event(const std::string& name, int64_t times = 1);
void host_sync(const std::string& why);  // counts; raises when syncs are forbidden
void describe(std::string& text, const at::Tensor& tensor);  // appends type, place and shape
void count_launch(const std::string& name, const std::string& signature);
bool strict();
void set_strict(bool on);
void forbid_syncs(bool on);
std::set<std::string>& native_operators();

// ---- memory.cpp
int device_count();
int exchange_device(int index);  // a negative index changes nothing
c10::Allocator* device_allocator();
int64_t live_bytes(int device);
int64_t peak_bytes(int device);
void reset_peak(int device);
void register_hooks();

// ---- boxed.cpp
void boxed(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);  // the kernel of every operator
at::Tensor on_host(const at::Tensor& tensor);                                                   // the same memory as a CPU tensor
at::Tensor make_tensor(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like);
// What boxed() asks of the device: memory.cpp here, adapter.cpp in tests/npu_front_end.
int current_device();
c10::Storage device_storage(const c10::Storage& host, int device);              // with the content of that CPU storage
at::Tensor device_tensor(const c10::Storage& storage, const at::Tensor& like);  // shape, strides and type of `like`
at::Generator default_generator(int device);
at::Generator host_generator(const at::Generator& device);  // the CPU generator that does the drawing for it

// ---- kernels.cpp
// Gives these aten operators the counting kernel; `pytorchs` (storage and views) are native but stay PyTorch's own.
int64_t install_native(const std::vector<std::string>& names, const std::set<std::string>& pytorchs);

}  // namespace sim
