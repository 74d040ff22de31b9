// A host-memory device that stands in for an NPU in tests: it counts what a real one would have to do.
// Nothing here imitates Ascend arithmetic or Ascend speed.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/Generator.h>
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
bool strict();
void set_strict(bool on);
void forbid_syncs(bool on);
std::set<std::string>& native_operators();

// ---- memory.cpp
int device_count();
int current_device();
int exchange_device(int index);  // a negative index changes nothing
c10::Allocator* device_allocator();
c10::DataPtr adopt(const c10::Storage& host, int device);  // memory of a CPU storage, owned by the device from now on
int64_t live_bytes(int device);
int64_t peak_bytes(int device);
void reset_peak(int device);
at::Generator& default_generator(int device);
at::Generator host_generator(int device);  // the CPU generator that does the drawing for a device
void register_hooks();

// ---- kernels.cpp
at::Tensor on_host(const at::Tensor& tensor);  // the same memory as a CPU tensor
// Gives these aten operators the counting kernel; `pytorchs` (storage and views) are native but stay PyTorch's own.
int64_t install_native(const std::vector<std::string>& names, const std::set<std::string>& pytorchs);

}  // namespace sim
