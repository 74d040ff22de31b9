// The simulated device's Python module.
#include "sim.h"

#include <torch/extension.h>

namespace sim {
void bind_hccl(pybind11::module_& m);  // hccl.cpp
namespace {
void clear() {
  auto& all = counts();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.launches.clear();
  all.signatures.clear();
  all.events.clear();
  all.not_native.clear();
}
pybind11::dict as_dict() {
  auto& all = counts();
  std::lock_guard<std::mutex> lock(all.mutex);
  pybind11::dict result;
  result["launches"] = all.launches;
  result["signatures"] = all.signatures;
  result["events"] = all.events;
  result["not_native"] = std::vector<std::string>(all.not_native.begin(), all.not_native.end());
  return result;
}
}  // namespace
}  // namespace sim

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  sim::register_hooks();
  sim::bind_hccl(m);
  m.def("device_count", &sim::device_count);
  m.def("current_device", &sim::current_device);
  m.def("exchange_device", &sim::exchange_device);
  m.def("synchronize", [] { sim::host_sync("synchronize"); });
  m.def("default_generator", [](int device) { return sim::default_generator(device); });
  m.def("live_bytes", &sim::live_bytes);
  m.def("peak_bytes", &sim::peak_bytes);
  m.def("reset_peak", &sim::reset_peak);
  m.def("install_native", &sim::install_native);
  m.def("set_strict", &sim::set_strict);
  m.def("forbid_syncs", &sim::forbid_syncs);
  m.def("clear", &sim::clear);
  m.def("counts", &sim::as_dict);
}
