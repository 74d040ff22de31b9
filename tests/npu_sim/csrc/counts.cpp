// What the simulated device counts.
#include "sim.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace sim {
namespace {
bool flag(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && std::strcmp(value, "0") != 0;
}
std::atomic<bool> g_strict{flag("NPU_SIM_STRICT")};
std::atomic<bool> g_no_sync{false};
}  // namespace

Counts& counts() {
  static auto* all = new Counts;
  return *all;
}
void event(const std::string& name, int64_t times) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  counts().events[name] += times;
}
void host_sync(const std::string& why) {
  event("sync:" + why);
  TORCH_CHECK(!g_no_sync, "the host waits for the npu: ", why);
}
void describe(std::string& text, const at::Tensor& t) {
  if (!t.defined()) {
    text += "-,";
    return;
  }
  text += c10::toString(t.scalar_type());
  text += t.is_privateuseone() || t.dim() == 0 ? "[" : "@cpu[";
  for (auto size : t.sizes()) text += std::to_string(size) + "x";
  text += "],";
}

void count_launch(const std::string& name, const std::string& signature) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  counts().launches[name]++;
  counts().signatures[signature]++;
}
bool strict() { return g_strict; }
void set_strict(bool on) { g_strict = on; }
void forbid_syncs(bool on) { g_no_sync = on; }
std::set<std::string>& native_operators() {
  static auto* names = new std::set<std::string>;
  return *names;
}
}  // namespace sim
